package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// key is what the rounds of one value have in common.
type key struct{ family, variant, metric string }

// report is the samples of a run, by key and round.
type report struct {
	*bench
	env    environment
	rounds map[key]map[int]float64
}

func newReport(b *bench, env environment) *report {
	r := &report{bench: b, env: env, rounds: map[key]map[int]float64{}}
	for _, x := range b.samples {
		r.set(key{x.Family, x.Variant, x.Metric}, x.Round, x.Value)
	}
	for _, m := range metrics {
		for _, x := range b.samples {
			direct, ok := r.rounds[key{x.Family, directName, m.beyond}][x.Round]
			if ok && x.Metric == m.beyond && x.Variant != directName {
				r.set(key{x.Family, x.Variant, m.id}, x.Round, x.Value-direct)
			}
		}
	}
	return r
}

func (r *report) set(k key, round int, value float64) {
	if r.rounds[k] == nil {
		r.rounds[k] = map[int]float64{}
	}
	r.rounds[k][round] = value
}

// median and spread of a value over the rounds.
func (r *report) median(k key) (median, spread float64, ok bool) {
	return middle(slices.Collect(maps.Values(r.rounds[k])))
}

// middle is the median, and as the spread the distance of the extremes as a part
// of it.
func middle(all []float64) (median, spread float64, ok bool) {
	slices.Sort(all)
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

// paired is the median, with its spread, of the ratios of two values in the same
// round: what changes from round to round for both does not count.
func (r *report) paired(k, to key) (median, spread float64, ok bool) {
	var all []float64
	for round, x := range r.rounds[k] {
		if y := r.rounds[to][round]; y != 0 {
			all = append(all, x/y)
		}
	}
	return middle(all)
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

// best is the variant with the best median in a metric; "" if none has one.
func (r *report) best(family string, m metric, variants []string) (name string) {
	var value float64
	for _, v := range variants {
		x, _, ok := r.median(key{family, v, m.id})
		if ok && (name == "" || m.better(x, value)) {
			name, value = v, x
		}
	}
	return name
}

// write prints the tables and writes the other files of the run.
func (r *report) write(w io.Writer) error {
	fmt.Fprintf(w, "\n%s\n%s; %s\n%s, %d idle connections, constant rate %.0f/s. ± is the spread between the rounds.\n",
		r.env.machine(), r.env.HAProxy, r.env.Nginx, r.env.effort(), r.env.Idle, r.rate)
	var short strings.Builder
	fmt.Fprintf(&short, "%s. %s, %d idle connections.\n", r.env.machine(), r.env.effort(), r.env.Idle)
	for _, f := range r.families {
		for _, t := range r.tables(f.name) {
			t.text(w)
		}
		for _, t := range r.shortTables(f.name) {
			t.markdown(&short)
		}
	}
	if !r.options.rules {
		if err := r.plots(); err != nil {
			return err
		}
	}
	fmt.Fprintf(w, "\nthe rest is in %s\n", r.out)
	return errors.Join(
		os.WriteFile(filepath.Join(r.out, "benchstat.txt"), []byte(r.benchstat()), 0o644),
		os.WriteFile(filepath.Join(r.out, "table.md"), []byte(short.String()), 0o644),
	)
}

// tables are those for the terminal.
func (r *report) tables(family string) []table {
	if r.options.rules {
		return []table{r.costs(family)}
	}
	all := []table{
		r.medians(family+": peers as their users set them up", family, r.of(limit, ours, peer)),
		r.ratios(family+": the goals, to the best peer as its users set it up and to direct", family, r.of(peer)),
	}
	if borrowers := r.of(borrower); len(borrowers) > 0 {
		all = append(
			all,
			r.medians(family+": peers on our rules", family, r.of(ours, borrower)),
			r.ratios(family+": the same to the best peer on our rules: what the proxy alone wins", family, borrowers),
		)
	}
	return all
}

// shortTables are those for a document.
func (r *report) shortTables(family string) []table {
	if r.options.rules {
		return []table{r.costs(family)}
	}
	return []table{
		r.short(family+", medians", family, r.of(limit, ours, peer)),
		r.ratios(family+", goals: to the best peer, to direct", family, r.of(peer)),
	}
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
