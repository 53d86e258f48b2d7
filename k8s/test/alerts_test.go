package test

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"
	"sigs.k8s.io/yaml"
)

const rulesFile = root + "chart/monitoring/rules.yaml"

// TestRules does what `promtool check rules` does, and holds the operator's form of
// the rules to the file.
func TestRules(t *testing.T) {
	groups, errs := rulefmt.ParseFile(rulesFile, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	page := string(read(t, root+"../docs/TROUBLESHOOTING.md"))
	all := exposed(t)
	for _, g := range groups.Groups {
		for _, r := range g.Rules {
			checkExpr(t, all, r.Alert, r.Expr)
			for _, name := range []string{"summary", "description", "runbook_url"} {
				if r.Annotations[name] == "" {
					t.Errorf("%s has no %s", r.Alert, name)
				}
			}
			if s := r.Labels["severity"]; s != "warning" && s != "critical" {
				t.Errorf("%s: severity %q", r.Alert, s)
			}
			if !strings.HasSuffix(r.Annotations["runbook_url"], "docs/TROUBLESHOOTING.md#alerts") || !strings.Contains(page, "\n| `"+r.Alert+"` |") {
				t.Errorf("%s has no row in docs/TROUBLESHOOTING.md, section Alerts", r.Alert)
			}
		}
	}
	operators := only[*monitoringv1.PrometheusRule](t, decode(t, read(t, root+"chart/monitoring/prometheusrule.yaml")))
	var plain monitoringv1.PrometheusRuleSpec
	if err := yaml.UnmarshalStrict(read(t, rulesFile), &plain); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(plain, operators.Spec); diff != "" {
		t.Errorf("prometheusrule.yaml is not rules.yaml (-rules +prometheusrule):\n%s", diff)
	}
}

// alertCase is series, one value a minute, in the notation of promtool's unit tests.
// While they last, the alert fires on each of bad and no alert on good.
type alertCase struct {
	alert     string
	bad, good []string
}

const (
	onNode = `node="node1"`
	inPod  = `namespace="n",pod="p"`
)

var alertCases = []alertCase{
	{
		"TproxyInstallNotReady",
		[]string{`tproxy_install_ready{` + onNode + `} 0x60`},
		[]string{`tproxy_install_ready{` + onNode + `} 1x20 0x3 1x37`}, // an upgrade
	},
	{
		"TproxyKernelMissing",
		[]string{`tproxy_install_kernel_missing{` + onNode + `,mode="tproxy",feature="nft tproxy"} 1x60`},
		[]string{`tproxy_install_preflight{` + onNode + `,mode="nat",result="ok"} 1x60`},
	},
	{
		"TproxyEntryFlapping",
		[]string{`tproxy_install_patches_total{` + onNode + `,reason="entry missing"} 1+1x60`},
		[]string{`tproxy_install_patches_total{` + onNode + `,reason="entry missing"} 1x20 2x20 3x20`}, // an update of the network
	},
	{
		"TproxyRepairFailed",
		[]string{`tproxy_install_pods{` + onNode + `,mode="nat",state="contested"} 0x50 1x10`},
		[]string{
			`tproxy_install_pods{` + onNode + `,mode="nat",state="intercepted"} 9x60`,
			`tproxy_install_pods{` + onNode + `,mode="nat",state="came_first"} 0x20 9x2 0x38`, // repaired
		},
	},
	{
		"TproxyNotReady",
		[]string{
			`tproxy_proxy_not_ready{` + inPod + `,reason="sysctl"} 1x60`,
			`tproxy_proxy_not_ready{` + inPod + `,reason="mode"} 0x60`,
		},
		[]string{
			`tproxy_proxy_not_ready{` + inPod + `,reason="draining"} 0x20 1x40`,
			`tproxy_proxy_not_ready{` + inPod + `,reason="checking"} 1x2 0x58`,
		},
	},
	{
		"TproxySpoofDegraded",
		[]string{
			`tproxy_proxy_build_info{` + inPod + `,mode="nat",version="v1"} 1x60`,
			`tproxy_proxy_spoof_total{` + inPod + `,result="address"} 0+10x60`,
			`tproxy_proxy_spoof_total{` + inPod + `,result="address_port"} 0+90x60`,
		},
		[]string{
			`tproxy_proxy_build_info{` + inPod + `,mode="tproxy",version="v1"} 1x60`,
			`tproxy_proxy_spoof_total{` + inPod + `,result="address"} 0+100x60`,
			`tproxy_proxy_build_info{namespace="n",pod="nat",mode="nat",version="v1"} 1x60`,
			`tproxy_proxy_spoof_total{namespace="n",pod="nat",result="address"} 0+1x60`,
			`tproxy_proxy_spoof_total{namespace="n",pod="nat",result="address_port"} 0+99x60`,
			`tproxy_proxy_build_info{namespace="n",pod="idle",mode="nat",version="v1"} 1x60`,
			`tproxy_proxy_spoof_total{namespace="n",pod="idle",result="address"} 0x60`,
		},
	},
	{
		"TproxyDialErrors",
		[]string{
			`tproxy_proxy_connections_accepted_total{` + inPod + `} 0+100x60`,
			`tproxy_proxy_dial_errors_total{` + inPod + `,errno="ECONNREFUSED"} 0+10x60`,
		},
		[]string{
			`tproxy_proxy_connections_accepted_total{` + inPod + `} 0+100x60`,
			`tproxy_proxy_dial_errors_total{` + inPod + `,errno="ECONNREFUSED"} 0+1x60`,
			`tproxy_proxy_dial_errors_total{` + inPod + `,errno="EADDRINUSE"} 0+90x60`, // tried again
			`tproxy_proxy_connections_accepted_total{namespace="n",pod="idle"} 5x60`,
			`tproxy_proxy_dial_errors_total{namespace="n",pod="idle",errno="ETIMEDOUT"} 5x60`,
		},
	},
	{
		"TproxyFull",
		[]string{`tproxy_proxy_connections_active{` + inPod + `} 950x60`, `tproxy_proxy_connections_limit{` + inPod + `} 1000x60`},
		[]string{`tproxy_proxy_connections_active{` + inPod + `} 800x20 1000x3 800x37`, `tproxy_proxy_connections_limit{` + inPod + `} 1000x60`},
	},
	{
		"TproxyAcceptOverflow",
		[]string{`tproxy_proxy_listen_overflows_total{` + inPod + `} 7x30 7+5x30`},
		[]string{`tproxy_proxy_listen_overflows_total{` + inPod + `} 7x60`},
	},
	{
		"TproxyHalfClosedGrowing",
		[]string{`tproxy_proxy_connections_half_closed{` + inPod + `} 100+10x90`},
		[]string{
			`tproxy_proxy_connections_half_closed{` + inPod + `} 500x90`,
			`tproxy_proxy_connections_half_closed{namespace="n",pod="few"} 0+1x90`,
		},
	},
}

// TestAlerts runs the rules as Prometheus does, with promtool's engine for unit tests.
func TestAlerts(t *testing.T) {
	var tested []string
	for _, c := range alertCases {
		tested = append(tested, c.alert)
		t.Run(c.alert, func(t *testing.T) {
			if _, atEnd := fired(t, c.bad); !slices.Equal(atEnd, []string{c.alert}) {
				t.Errorf("on the bad series fire %q, want only %s", atEnd, c.alert)
			}
			if ever, _ := fired(t, c.good); len(ever) > 0 {
				t.Errorf("on the good series fire %q", ever)
			}
		})
	}
	var plain monitoringv1.PrometheusRuleSpec
	if err := yaml.UnmarshalStrict(read(t, rulesFile), &plain); err != nil {
		t.Fatal(err)
	}
	for _, g := range plain.Groups {
		for _, r := range g.Rules {
			if !slices.Contains(tested, r.Alert) {
				t.Errorf("no case for %s", r.Alert)
			}
		}
	}
}

// fired evaluates the rules once a minute while the series last, and returns which
// alerts fired, at any time and at the end.
func fired(t *testing.T, series []string) (ever, atEnd []string) {
	t.Helper()
	suite, err := promqltest.NewLazyLoader("load 1m\n  "+strings.Join(series, "\n  ")+"\n", promqltest.LazyLoaderOpts{EnableAtModifier: true, EnableNegativeOffset: true})
	if err != nil {
		t.Fatal(err)
	}
	defer suite.Close()
	manager := rules.NewManager(&rules.ManagerOptions{
		QueryFunc: rules.EngineQueryFunc(suite.QueryEngine(), suite.Storage()), Appendable: suite.Storage(),
		Context: t.Context(), NotifyFunc: func(context.Context, string, ...*rules.Alert) {}, Logger: slog.New(slog.DiscardHandler),
		Parser: parser.NewParser(parser.Options{}),
	})
	groups, errs := manager.LoadGroups(time.Minute, labels.EmptyLabels(), "", nil, false, rulesFile)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	minutes := 60
	if strings.Contains(series[0], "x90") {
		minutes = 90
	}
	for minute := range minutes + 1 {
		now := time.Unix(0, 0).UTC().Add(time.Duration(minute) * time.Minute)
		suite.WithSamplesTill(now, func(e error) { err = e })
		if err != nil {
			t.Fatal(err)
		}
		atEnd = nil
		for _, g := range groups {
			g.Eval(t.Context(), now)
			for _, r := range g.Rules() {
				if r.LastError() != nil {
					t.Fatalf("%s: %v", r.Name(), r.LastError())
				}
				for _, a := range r.(*rules.AlertingRule).ActiveAlerts() {
					if a.State != rules.StateFiring {
						continue
					}
					ever = append(ever, r.Name())
					atEnd = append(atEnd, r.Name())
					if text := a.Annotations.String(); strings.Contains(text, "no value") || strings.Contains(text, "{{") {
						t.Errorf("%s says %s", r.Name(), text)
					}
				}
			}
		}
	}
	slices.Sort(ever)
	return slices.Compact(ever), slices.Compact(atEnd)
}
