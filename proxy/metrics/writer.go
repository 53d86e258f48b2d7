package metrics

import (
	"strconv"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/internal/printable"
	"github.com/tproxy-cni/tproxy-cni/proxy/stats"
)

// writer writes Prometheus' text format, version 0.0.4.
type writer struct {
	text   []byte
	family *family // whose samples are written
	headed bool    // its HELP and TYPE are there: a metric without samples has none
}

// put writes a sample. labels are names and values by turns.
func (w *writer) put(value float64, labels ...string) { w.sample("", value, labels...) }

func (w *writer) count(n int64, labels ...string) { w.sample("", float64(n), labels...) }

// each writes a sample for each of a label's values, in their order.
func (w *writer) each(label string, values []string, counts map[string]int64) {
	for _, v := range values {
		w.count(counts[v], label, v)
	}
}

func (w *writer) histogram(h *stats.Histogram) {
	n := int64(0)
	for i, b := range h.Buckets {
		bound := "+Inf"
		if i < len(stats.Bounds) {
			bound = strconv.FormatFloat(stats.Bounds[i].Seconds(), 'g', -1, 64)
		}
		n += b
		w.sample("_bucket", float64(n), "le", bound)
	}
	w.sample("_sum", h.Sum.Seconds())
	w.sample("_count", float64(n))
}

// escape is for the value of a label.
var escape = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func (w *writer) sample(suffix string, value float64, labels ...string) {
	if !w.headed {
		w.headed = true
		w.add("# HELP ", w.family.name, " ", w.family.help, "\n# TYPE ", w.family.name, " ", w.family.kind, "\n")
	}
	w.add(w.family.name, suffix)
	for i := 0; i < len(labels); i += 2 {
		before := "{"
		if i > 0 {
			before = ","
		}
		w.add(before, labels[i], `="`, escape.Replace(labels[i+1]), `"`)
	}
	if len(labels) > 0 {
		w.add("}")
	}
	w.add(" ")
	w.text = strconv.AppendFloat(w.text, value, 'f', -1, 64)
	w.add("\n")
}

func (w *writer) comment(text string) { w.add("# ", printable.Line(text), "\n") }

func (w *writer) add(parts ...string) {
	for _, p := range parts {
		w.text = append(w.text, p...)
	}
}
