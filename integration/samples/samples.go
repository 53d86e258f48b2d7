// Package samples reads what a program's /metrics says, for those who compare it.
package samples

import (
	"strings"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Samples are values by series: "connections_active", "relayed_bytes_total{up}". The name
// is without the sidecar's prefix, the label without its name.
type Samples map[string]float64

// Read reads Prometheus' text format by Prometheus' parser.
func Read(text string) (Samples, error) {
	parser := expfmt.NewTextParser(model.LegacyValidation)
	all, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		return nil, err
	}
	s := Samples{}
	for name, f := range all {
		for _, m := range f.Metric {
			key := strings.TrimPrefix(name, "tproxy_proxy_")
			for _, l := range m.Label {
				key += "{" + l.GetValue() + "}"
			}
			s[key] = m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return s, nil
}
