package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tproxy-cni/tproxy-cni/integration/bench/figures"
	"github.com/tproxy-cni/tproxy-cni/integration/results"
)

// The goals of an ADD.
const (
	mostMedian  = 5.0 // ms
	mostOfTable = 1.6 // times one empty table
	leastOfExec = 5.0 // so many times less than linkerd-cni's execs
)

// report writes the table, and the samples to a file.
func report(w io.Writer, file string, list []variant, samples [][]sample) error {
	wall, cpu := func(s sample) time.Duration { return s.wall }, func(s sample) time.Duration { return s.cpu }
	median := map[string]figures.Figure{}
	for i, v := range list {
		median[v.name] = figures.Of(ms(samples[i], wall))
	}
	t := results.Table{Head: []string{
		fmt.Sprintf("ms, %d runs of each", len(samples[0])), "min", "median", "CPU", "× one empty table", "linkerd-cni is ×",
	}}
	for i, v := range list {
		m := median[v.name]
		table, execs := m.Center/median[tableName].Center, median[linkerdName].Center/m.Center
		total, ofTable, ofExecs := "", "", ""
		if v.ours {
			total, ofTable, ofExecs = mark(m.Center <= mostMedian), mark(table <= mostOfTable), mark(execs >= leastOfExec)
		}
		t.Rows = append(t.Rows, []string{
			v.name, figures.Number(slices.Min(ms(samples[i], wall))), m.String() + total, figures.Of(ms(samples[i], cpu)).String(),
			fmt.Sprintf("%.2f%s", table, ofTable), fmt.Sprintf("%.1f%s", execs, ofExecs),
		})
	}
	t.Rows = append(t.Rows, []string{
		"goals of an ADD", "", fmt.Sprintf("≤ %g", mostMedian), "", fmt.Sprintf("≤ %g", mostOfTable), fmt.Sprintf("≥ %g", leastOfExec),
	})
	if err := t.Text(w); err != nil {
		return err
	}
	fmt.Fprintf(w, "%s. ± is the %.0f %% confidence interval of the median.\n", results.ThisMachine().On(time.Now().UTC()), figures.Confidence*100)
	var stat bytes.Buffer
	return errors.Join(
		benchstat(&stat, list, samples),
		os.MkdirAll(filepath.Dir(file), 0o755),
		os.WriteFile(file, stat.Bytes(), 0o644),
	)
}

// benchstat writes the samples for benchstat.
func benchstat(w io.Writer, list []variant, samples [][]sample) (err error) {
	out := figures.NewBenchstat(w)
	for i, v := range list {
		name := "ADD/" + strings.NewReplacer(" ", "_", ",", "").Replace(v.name)
		for _, s := range samples[i] {
			err = errors.Join(err, out.Write(name,
				figures.Value{Value: float64(s.wall.Nanoseconds()), Unit: "ns/op"},
				figures.Value{Value: float64(s.cpu.Nanoseconds()), Unit: "cpu-ns/op"}))
		}
	}
	return err
}

// ms are one time of each sample, in milliseconds.
func ms(samples []sample, which func(sample) time.Duration) (all []float64) {
	for _, s := range samples {
		all = append(all, float64(which(s).Nanoseconds())/1e6)
	}
	return all
}

// mark says whether a goal is met.
func mark(met bool) string {
	if met {
		return " ok"
	}
	return " SHORT"
}
