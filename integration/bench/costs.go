package main

import (
	"slices"

	"github.com/tproxy-cni/tproxy-cni/integration/results"
)

// costMetrics are the columns of the table of costs.
var costMetrics = []string{"rr64", "rr64-cpu", "rr1-p50", "conns", "conns-cpu", "up16-cpu"}

// costs is the table of what each part of the rules costs: the sidecars' values with
// all rules, and with reduced rules as a ratio to those.
func (r *report) costs(family string) results.Table {
	t := results.Table{Title: family + ": what each part of the rules costs (×: relative to all rules)", Head: []string{""}}
	var columns []metric
	for _, id := range costMetrics {
		m := metrics[slices.IndexFunc(metrics, func(m metric) bool { return m.id == id })]
		columns = append(columns, m)
		t.Head = append(t.Head, m.title+", "+m.unit)
	}
	for _, s := range r.sites {
		row := []string{s.name}
		for _, m := range columns {
			k := key{family, s.name, m.id}
			if s.full == "" {
				row = append(row, r.figure(k).String())
			} else {
				row = append(row, r.paired(k, key{family, s.full, m.id}).Ratio())
			}
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}
