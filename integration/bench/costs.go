package main

import (
	"fmt"
	"slices"
)

// costMetrics are those by which the rules are judged.
var costMetrics = []string{"rr64", "rr64-cpu", "rr1-p50", "conns", "conns-cpu", "up16-cpu"}

// costs is the table of what each part of the rules costs: what the sidecars do
// on all rules, and on reduced ones as a ratio to that.
func (r *report) costs(family string) table {
	t := table{title: family + ": what each part of the rules costs (×: to all rules)", head: []string{""}}
	var columns []metric
	for _, id := range costMetrics {
		m := metrics[slices.IndexFunc(metrics, func(m metric) bool { return m.id == id })]
		columns = append(columns, m)
		t.head = append(t.head, m.title+", "+m.unit)
	}
	for _, s := range r.sites {
		row := []string{s.name}
		for _, m := range columns {
			k := key{family, s.name, m.id}
			if s.full == "" {
				cells, _ := r.cells(family, m, []string{s.name}, false)
				row = append(row, cells...)
				continue
			}
			cell := ""
			if x, spread, ok := r.paired(k, key{family, s.full, m.id}); ok {
				cell = fmt.Sprintf("%.2f× ±%.0f%%", x, spread*100)
			}
			row = append(row, cell)
		}
		t.rows = append(t.rows, row)
	}
	return t
}
