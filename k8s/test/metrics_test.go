package test

import (
	"errors"
	"io"
	"log/slog"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/tproxy-cni/tproxy-cni/install/conflist"
	"github.com/tproxy-cni/tproxy-cni/install/health"
	"github.com/tproxy-cni/tproxy-cni/install/node"
	"github.com/tproxy-cni/tproxy-cni/install/preflight"
	"github.com/tproxy-cni/tproxy-cni/install/state"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/proxy/metrics"
	"github.com/tproxy-cni/tproxy-cni/proxy/podstat"
	"github.com/tproxy-cni/tproxy-cni/proxy/probe"
	"github.com/tproxy-cni/tproxy-cni/proxy/stats"
)

// exposed are all series of a sidecar and of an installer, with the labels that the
// PodMonitors add.
func exposed(t *testing.T) (all []labels.Labels) {
	t.Helper()
	for _, mode := range []string{contract.ModeNAT, contract.ModeTProxy} {
		s := metrics.State{Version: "v1", Mode: mode, Checked: time.Unix(1, 0), Snapshot: stats.Sum(&stats.Loop{})}
		for _, r := range probe.Reasons {
			s.Reasons = append(s.Reasons, string(r))
		}
		s.Queues = []podstat.Queue{{Port: 8080}}
		s.Drops, s.Conntrack, s.Process = &podstat.Drops{}, &podstat.Conntrack{}, &podstat.Process{}
		all = append(all, scraped(t, string(metrics.Append(nil, &s)), "tproxy-proxy")...)
	}
	s := health.New(contract.ModeNone, contract.PacketGuardRequired)
	for _, kind := range node.Kinds() {
		s.Attempt(node.Outcome{Patches: []string{string(conflist.Missing)}}, "", node.Failure{Kind: kind, Err: errors.New("some")})
	}
	s.Preflight([]preflight.Verdict{{Mode: contract.ModeNAT, Missing: []string{"nft fib"}}}, nil)
	s.Pods(state.Count{}, time.Second)
	answer := httptest.NewRecorder()
	s.Handler(slog.New(slog.DiscardHandler)).ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
	return append(all, scraped(t, answer.Body.String(), "tproxy-install")...)
}

// scraped reads Prometheus' text.
func scraped(t *testing.T, text, container string) (all []labels.Labels) {
	t.Helper()
	decoder := expfmt.SampleDecoder{
		Dec:  expfmt.NewDecoder(strings.NewReader(text), expfmt.NewFormat(expfmt.TypeTextPlain)),
		Opts: &expfmt.DecodeOptions{},
	}
	for {
		var v model.Vector
		if err := decoder.Decode(&v); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		for _, sample := range v {
			b := labels.NewBuilder(labels.FromStrings("namespace", "n", "pod", "p", "container", container, "node", "node1"))
			for name, value := range sample.Metric {
				b.Set(string(name), string(value))
			}
			all = append(all, b.Labels())
		}
	}
}

// variables are Grafana's, as a query for everything has them.
var variables = strings.NewReplacer("$namespace", ".*", "$pod", ".*", "$__rate_interval", "5m")

// checkExpr finds fault with an expression that selects what neither program
// exposes, or that speaks of labels that what it selects does not have.
func checkExpr(t *testing.T, all []labels.Labels, name, text string) (known []string) {
	t.Helper()
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(variables.Replace(text))
	if err != nil {
		t.Errorf("%s: %v in %s", name, err, text)
		return nil
	}
	selectors := 0
	var named []string // labels
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		switch n := n.(type) {
		case *parser.VectorSelector:
			selectors++
			found := slices.DeleteFunc(slices.Clone(all), func(l labels.Labels) bool {
				return slices.ContainsFunc(n.LabelMatchers, func(m *labels.Matcher) bool { return !m.Matches(l.Get(m.Name)) })
			})
			if len(found) == 0 {
				t.Errorf("%s: no program has a series %s", name, n)
			}
			for _, l := range found {
				l.Range(func(one labels.Label) { known = append(known, one.Name) })
			}
			for _, m := range n.LabelMatchers {
				checkValues(t, all, name, m)
			}
		case *parser.AggregateExpr:
			named = append(named, n.Grouping...)
		case *parser.BinaryExpr:
			if m := n.VectorMatching; m != nil {
				named = append(named, m.MatchingLabels...)
			}
		}
		return nil
	})
	if selectors == 0 {
		t.Errorf("%s selects nothing: %s", name, text)
	}
	for _, l := range named {
		if !slices.Contains(known, l) {
			t.Errorf("%s: nothing in it has a label %s: %s", name, l, text)
		}
	}
	return known
}

// checkValues: each value that a matcher names exists, also one that it excludes.
func checkValues(t *testing.T, all []labels.Labels, name string, m *labels.Matcher) {
	t.Helper()
	for value := range strings.SplitSeq(m.Value, "|") {
		if value == ".*" {
			continue
		}
		if !slices.ContainsFunc(all, func(l labels.Labels) bool { return l.Get(m.Name) == value }) {
			t.Errorf("%s: no series has %s=%q", name, m.Name, value)
		}
	}
}
