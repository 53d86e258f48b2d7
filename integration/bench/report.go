package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
)

// key is what the rounds of one value have in common.
type key struct{ family, variant, metric string }

// report is the samples of a run, by key.
type report struct {
	*bench
	rounds map[key][]float64
}

func newReport(b *bench) *report {
	r := &report{bench: b, rounds: map[key][]float64{}}
	for _, x := range b.samples {
		k := key{x.Family, x.Variant, x.Metric}
		r.rounds[k] = append(r.rounds[k], x.Value)
	}
	return r
}

// median and spread of a value over the rounds; the spread is the distance of
// the extremes as a part of the median.
func (r *report) median(k key) (median, spread float64, ok bool) {
	all := slices.Sorted(slices.Values(r.rounds[k]))
	n := len(all)
	if n == 0 {
		return 0, 0, false
	}
	median = (all[(n-1)/2] + all[n/2]) / 2
	if median != 0 {
		spread = (all[n-1] - all[0]) / median
	}
	return median, spread, true
}

// of are the names of the variants with one of the roles.
func (r *report) of(roles ...role) []string {
	var names []string
	for _, want := range roles {
		for _, s := range r.sites {
			if s.role == want {
				names = append(names, s.name)
			}
		}
	}
	return names
}

// best is the best of the variants in a metric.
func (r *report) best(family string, m metric, variants []string) (name string, value float64, ok bool) {
	for _, v := range variants {
		x, _, has := r.median(key{family, v, m.id})
		if has && (!ok || m.better(x, value)) {
			name, value, ok = v, x, true
		}
	}
	return name, value, ok
}

// write prints the tables and writes the other files of the run.
func (r *report) write(w io.Writer, env environment) error {
	fmt.Fprintf(w, "\n%s, Linux %s, %d × %s, %s\n%s; %s\n%d rounds of %v each, %d idle connections, constant rate %.0f/s. Medians, ± is the spread between the rounds.\n",
		env.Date.Format("2006-01-02 15:04 MST"), env.Kernel, env.CPUs, env.CPU, env.Go,
		env.HAProxy, env.Nginx, env.Rounds, env.Duration, env.Idle, r.rate)
	for _, f := range r.families {
		r.table(w, f.name+": peers as their users set them up", f.name, r.of(limit, ours, peer))
		r.ratios(w, f.name+": the goals, to the best peer as its users set it up and to direct", f.name, r.of(peer))
		if borrowers := r.of(borrower); len(borrowers) > 0 {
			r.table(w, f.name+": peers on our rules", f.name, r.of(ours, borrower))
			r.ratios(w, f.name+": the same to the best peer on our rules: what the proxy alone wins", f.name, borrowers)
		}
	}
	if err := os.WriteFile(filepath.Join(r.out, "benchstat.txt"), []byte(r.benchstat()), 0o644); err != nil {
		return err
	}
	if err := r.plots(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nin %s: results.json, benchstat.txt and plots\n", r.out)
	return nil
}

func (r *report) table(w io.Writer, title, family string, variants []string) {
	fmt.Fprintf(w, "\n%s\n\n", title)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	defer tw.Flush()
	fmt.Fprintf(tw, "\t\t%s\t\n", strings.Join(variants, "\t"))
	for _, m := range metrics {
		row, any := m.title+"\t"+m.unit+"\t", false
		for _, v := range variants {
			x, spread, ok := r.median(key{family, v, m.id})
			if any = any || ok; ok {
				row += number(x)
			}
			if ok && r.options.rounds > 1 {
				row += fmt.Sprintf(" ±%.0f%%", spread*100)
			}
			row += "\t"
		}
		if any {
			fmt.Fprintln(tw, row)
		}
	}
}

// ratios sets the sidecars against others, in the metrics that have a goal.
func (r *report) ratios(w io.Writer, title, family string, peers []string) {
	fmt.Fprintf(w, "\n%s\n\n", title)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer tw.Flush()
	sidecars, direct := r.of(ours), r.of(limit)
	fmt.Fprint(tw, "\tgoals\t")
	for _, v := range sidecars {
		fmt.Fprintf(tw, "%s\t\t", v)
	}
	fmt.Fprintln(tw)
	for _, m := range metrics {
		_, toPeer, okPeer := r.best(family, m, peers)
		_, toDirect, okDirect := r.best(family, m, direct)
		if !(m.toPeer > 0 && okPeer || m.toDirect > 0 && okDirect || m.value > 0) {
			continue
		}
		fmt.Fprintf(tw, "%s\t%s\t", m.title, m.goals())
		for _, v := range sidecars {
			x, _, ok := r.median(key{family, v, m.id})
			switch {
			case !ok:
				fmt.Fprint(tw, "\t\t")
			case m.value > 0:
				fmt.Fprintf(tw, "%s %s\t\t", number(x), m.mark(x, m.value))
			default:
				fmt.Fprintf(tw, "%s\t%s\t", m.ratio(x, toPeer, m.toPeer, okPeer), m.ratio(x, toDirect, m.toDirect, okDirect))
			}
		}
		fmt.Fprintln(tw)
	}
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

func (m metric) ratio(x, other, goal float64, ok bool) string {
	if !ok || other == 0 {
		return ""
	}
	return strings.TrimSpace(fmt.Sprintf("%.2f× %s", x/other, m.mark(x/other, goal)))
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

// benchstat is the samples as go test -bench would print them, so that two runs
// can be compared with benchstat.
func (r *report) benchstat() string {
	var b strings.Builder
	for _, x := range r.samples {
		fmt.Fprintf(&b, "Benchmark/metric=%s/family=%s/variant=%s 1 %g %s\n",
			x.Metric, x.Family, strings.ReplaceAll(x.Variant, "/", "-on-"), x.Value, strings.ReplaceAll(x.Unit, "µ", "u"))
	}
	return b.String()
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
