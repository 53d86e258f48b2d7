package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/integration/bench/figures"
	"github.com/tproxy-cni/tproxy-cni/integration/results"
)

// key identifies a value; each round has one sample of it.
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

// figure is the median of a value over the rounds.
func (r *report) figure(k key) figures.Figure {
	return figures.Of(slices.Collect(maps.Values(r.rounds[k])))
}

// paired is the median of the ratios of two values in the same round: what
// changes from round to round for both does not count.
func (r *report) paired(k, to key) figures.Figure {
	var all []float64
	for round, x := range r.rounds[k] {
		if y := r.rounds[to][round]; y != 0 {
			all = append(all, x/y)
		}
	}
	return figures.Of(all)
}

// of returns the names of the variants with one of the roles.
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
		f := r.figure(key{family, v, m.id})
		if f.Samples > 0 && (name == "" || m.better(f.Center, value)) {
			name, value = v, f.Center
		}
	}
	return name
}

// write prints the tables and writes the other files of the run.
func (r *report) write(w io.Writer) error {
	fmt.Fprintf(w, "\n%s\n%s; %s\n%s, %d idle connections, constant rate %.0f/s. %s.\n",
		r.env.machine(), r.env.HAProxy, r.env.Nginx, r.env.effort(), r.env.Idle, r.rate, r.env.interval())
	var short strings.Builder
	fmt.Fprintf(&short, "%s. %s, %d idle connections. %s.\n", r.env.machine(), r.env.effort(), r.env.Idle, r.env.interval())
	for _, f := range r.families {
		for _, t := range r.tables(f.name) {
			if err := t.Text(w); err != nil {
				return err
			}
		}
		for _, t := range r.shortTables(f.name) {
			t.Markdown(&short)
		}
	}
	if !r.options.rules {
		if err := r.plots(); err != nil {
			return err
		}
	}
	fmt.Fprintf(w, "\nresults.json, benchstat.txt, table.md and the plots are in %s\n", r.out)
	var stat bytes.Buffer
	return errors.Join(
		r.benchstat(&stat),
		os.WriteFile(filepath.Join(r.out, "benchstat.txt"), stat.Bytes(), 0o644),
		os.WriteFile(filepath.Join(r.out, "table.md"), []byte(short.String()), 0o644),
	)
}

// tables are those for the terminal.
func (r *report) tables(family string) []results.Table {
	if r.options.rules {
		return []results.Table{r.costs(family)}
	}
	all := []results.Table{
		r.medians(family+": peers as their users set them up", family, r.of(limit, ours, peer)),
		r.ratios(family+": ratios to the best peer, as its users set it up, and to direct, with the goals", family, r.of(peer)),
	}
	if borrowers := r.of(borrower); len(borrowers) > 0 {
		all = append(
			all,
			r.medians(family+": peers on our rules", family, r.of(ours, borrower)),
			r.ratios(family+": the same ratios to the best peer on our rules: what the proxy alone gains", family, borrowers),
		)
	}
	return all
}

// shortTables are those for a document.
func (r *report) shortTables(family string) []results.Table {
	if r.options.rules {
		return []results.Table{r.costs(family)}
	}
	return []results.Table{
		r.short(family+", medians", family, r.of(limit, ours, peer)),
		r.ratios(family+", goals: ratios to the best peer and to direct", family, r.of(peer)),
	}
}

// benchstat writes the samples in benchstat's format, to compare two runs.
func (r *report) benchstat(w io.Writer) (err error) {
	out := figures.NewBenchstat(w)
	for _, x := range r.samples {
		name := fmt.Sprintf("/metric=%s/family=%s/variant=%s", x.Metric, x.Family, strings.ReplaceAll(x.Variant, "/", "-on-"))
		err = errors.Join(err, out.Write(name, figures.Value{Value: x.Value, Unit: strings.ReplaceAll(x.Unit, "µ", "u")}))
	}
	return err
}
