package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// table is shown on the terminal and in Markdown.
type table struct {
	title string
	head  []string
	rows  [][]string
}

func (t table) text(w io.Writer) {
	if len(t.rows) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s\n\n", t.title)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, row := range append([][]string{t.head}, t.rows...) {
		fmt.Fprintln(tw, strings.Join(row, "\t")+"\t")
	}
	tw.Flush()
}

func (t table) markdown(w io.Writer) {
	if len(t.rows) == 0 {
		return
	}
	line := func(cells []string) { fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | ")) }
	fmt.Fprintf(w, "\n%s\n\n", t.title)
	line(t.head)
	fmt.Fprintln(w, "|---"+strings.Repeat("|--:", len(t.head)-1)+"|")
	for _, row := range t.rows {
		line(row)
	}
}

// medians is a table of all metrics, with their spread where there is one.
func (r *report) medians(title, family string, variants []string) table {
	t := table{title: title, head: append([]string{"", ""}, variants...)}
	for _, m := range metrics {
		cells, any := r.cells(family, m, variants, r.options.rounds > 1)
		if any {
			t.rows = append(t.rows, append([]string{m.title, m.unit}, cells...))
		}
	}
	return t
}

// short is a table of the metrics that are no detail.
func (r *report) short(title, family string, variants []string) table {
	t := table{title: title, head: append([]string{""}, variants...)}
	for _, m := range metrics {
		cells, any := r.cells(family, m, variants, false)
		if any && !m.detail {
			t.rows = append(t.rows, append([]string{m.title + ", " + m.unit}, cells...))
		}
	}
	return t
}

// cells are a metric's medians; any tells whether there is one.
func (r *report) cells(family string, m metric, variants []string, spreads bool) (cells []string, any bool) {
	for _, v := range variants {
		cell := ""
		x, spread, ok := r.median(key{family, v, m.id})
		if any = any || ok; ok {
			cell = number(x)
		}
		if ok && spreads {
			cell += fmt.Sprintf(" ±%.0f%%", spread*100)
		}
		cells = append(cells, cell)
	}
	return cells, any
}

// ratios sets the sidecars against others, in the metrics that have a goal: each is
// the median of the rounds' own ratios.
func (r *report) ratios(title, family string, peers []string) table {
	sidecars, direct := r.of(ours), r.of(limit)
	t := table{title: title, head: []string{"", "goals", "best peer"}}
	for _, v := range sidecars {
		t.head = append(t.head, v+" / peer", v+" / direct")
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
			x, _, ok := r.median(k)
			any = any || ok
			if ok && m.value > 0 {
				row = append(row, number(x)+" "+m.mark(x, m.value), "")
				continue
			}
			row = append(row, r.ratio(m, k, toPeer, m.toPeer), r.ratio(m, k, toDirect, m.toDirect))
		}
		if any {
			t.rows = append(t.rows, row)
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
		goals = append(goals, sign+number(m.value)+" "+m.unit)
	}
	for _, g := range []float64{m.toPeer, m.toDirect} {
		if g > 0 {
			goals = append(goals, fmt.Sprintf("%s%g×", sign, g))
		}
	}
	return strings.Join(goals, " ")
}

// ratio is a value's to the same of another variant, and whether it reaches the
// goal; empty where that was not measured.
func (r *report) ratio(m metric, k key, variant string, goal float64) string {
	x, _, ok := r.paired(k, key{k.family, variant, m.id})
	if !ok {
		return ""
	}
	return strings.TrimSpace(fmt.Sprintf("%.2f× %s", x, m.mark(x, goal)))
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

// number has three digits that count.
func number(x float64) string {
	switch {
	case x >= 100 || x <= -100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10 || x <= -10:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.2f", x)
}
