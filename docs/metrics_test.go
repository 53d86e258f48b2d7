package docs

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/proxy/metrics"
	"github.com/tproxy-cni/tproxy-cni/proxy/podstat"
	"github.com/tproxy-cni/tproxy-cni/proxy/probe"
	"github.com/tproxy-cni/tproxy-cni/proxy/stats"
)

// TestMetrics: the page has the metrics that the sidecar shows, and no other, with their
// types, labels and, where a set is closed, all values.
func TestMetrics(t *testing.T) {
	shown, said := map[string][]string{}, map[string][]string{}
	for _, mode := range []string{contract.ModeNAT, contract.ModeTProxy} {
		s := metrics.State{
			Version: "any", Mode: mode, Snapshot: stats.Sum(&stats.Loop{}),
			Reading: podstat.Reading{
				Queues: []podstat.Queue{{Port: 1}}, Drops: &podstat.Drops{}, Conntrack: &podstat.Conntrack{}, Process: &podstat.Process{},
			},
		}
		for _, r := range probe.Reasons {
			s.Reasons = append(s.Reasons, string(r))
		}
		parser := expfmt.NewTextParser(model.LegacyValidation)
		families, err := parser.TextToMetricFamilies(bytes.NewReader(metrics.Append(nil, &s)))
		if err != nil {
			t.Fatal(err)
		}
		for name, f := range families {
			words := append(shown[name], strings.ToLower(f.GetType().String()))
			for _, m := range f.Metric {
				for _, l := range m.Label {
					if words = append(words, l.GetName()); l.GetName() != "version" && l.GetName() != "port" {
						words = append(words, l.GetValue())
					}
				}
			}
			slices.Sort(words)
			shown[name] = slices.Compact(words)
		}
	}
	shown["tproxy_proxy_dial_duration_seconds"] = append(shown["tproxy_proxy_dial_duration_seconds"], "le") // Prometheus' parser takes it away
	for _, row := range table(t, "Metrics of the sidecar") {
		words := []string{row[1]}
		cells := row[2]
		for link, heading := range map[string]string{"(#why-the-sidecar-is-not-ready)": "Why the sidecar is not ready", "(#how-a-connection-ends)": "How a connection ends"} {
			if strings.Contains(cells, link) {
				for _, other := range table(t, heading) {
					cells += other[0]
				}
			}
		}
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells, -1) {
			words = append(words, m[1])
		}
		slices.Sort(words)
		name := strings.Trim(row[0], "`")
		if said[name] != nil {
			t.Errorf("%s has two rows", name)
		}
		said[name] = slices.Compact(words)
	}
	if diff := cmp.Diff(shown, said); diff != "" {
		t.Errorf("metrics (-sidecar +REFERENCE.md):\n%s", diff)
	}
}
