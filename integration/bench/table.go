package main

import (
	"fmt"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/integration/bench/figures"
	"github.com/tproxy-cni/tproxy-cni/integration/results"
)

// medians is a table of all metrics, with their confidence intervals.
func (r *report) medians(title, family string, variants []string) results.Table {
	t := results.Table{Title: title, Head: append([]string{"", ""}, variants...)}
	for _, m := range metrics {
		cells, any := r.cells(family, m, variants)
		if any {
			t.Rows = append(t.Rows, append([]string{m.title, m.unit}, cells...))
		}
	}
	return t
}

// short is medians without the details.
func (r *report) short(title, family string, variants []string) results.Table {
	t := results.Table{Title: title, Head: append([]string{""}, variants...)}
	for _, m := range metrics {
		cells, any := r.cells(family, m, variants)
		if any && !m.detail {
			t.Rows = append(t.Rows, append([]string{m.title + ", " + m.unit}, cells...))
		}
	}
	return t
}

// cells are a metric's medians; any reports whether there is one.
func (r *report) cells(family string, m metric, variants []string) (cells []string, any bool) {
	for _, v := range variants {
		f := r.figure(key{family, v, m.id})
		any = any || f.Samples > 0
		cells = append(cells, f.String())
	}
	return cells, any
}

// ratios compares the sidecars with the best of peers and with direct in the metrics
// that have a goal. Each ratio is the median of the rounds' own ratios.
func (r *report) ratios(title, family string, peers []string) results.Table {
	sidecars, direct := r.of(ours), r.of(limit)
	t := results.Table{Title: title, Head: []string{"", "goals", "best peer"}}
	for _, v := range sidecars {
		t.Head = append(t.Head, v+" / peer", v+" / direct")
	}
	for _, m := range metrics {
		toPeer, toDirect := r.best(family, m, peers), r.best(family, m, direct)
		if !(m.toPeer > 0 && toPeer != "" || m.toDirect > 0 && toDirect != "" || m.value > 0) {
			continue
		}
		if m.toPeer == 0 {
			toPeer = ""
		}
		row, any := []string{m.title, m.goals(), toPeer}, false
		for _, v := range sidecars {
			k := key{family, v, m.id}
			f := r.figure(k)
			any = any || f.Samples > 0
			if f.Samples > 0 && m.value > 0 {
				row = append(row, f.String()+" "+m.mark(f.Center, m.value), "")
				continue
			}
			row = append(row, r.ratio(m, k, toPeer, m.toPeer), r.ratio(m, k, toDirect, m.toDirect))
		}
		if any {
			t.Rows = append(t.Rows, row)
		}
	}
	return t
}

func (m metric) goals() string {
	sign := "≥"
	if m.less {
		sign = "≤"
	}
	var goals []string
	if m.value > 0 {
		goals = append(goals, sign+figures.Number(m.value)+" "+m.unit)
	}
	for _, g := range []float64{m.toPeer, m.toDirect} {
		if g > 0 {
			goals = append(goals, fmt.Sprintf("%s%g×", sign, g))
		}
	}
	return strings.Join(goals, " ")
}

// ratio is a value relative to that of another variant, and whether it reaches the
// goal; empty where either was not measured.
func (r *report) ratio(m metric, k key, variant string, goal float64) string {
	f := r.paired(k, key{k.family, variant, m.id})
	if f.Samples == 0 {
		return ""
	}
	return strings.TrimSpace(f.Ratio() + " " + m.mark(f.Center, goal))
}

// mark says whether a goal is met, if there is one.
func (m metric) mark(got, goal float64) string {
	switch {
	case goal == 0:
		return ""
	case m.met(got, goal):
		return "ok"
	}
	return "SHORT"
}
