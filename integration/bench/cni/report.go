package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// The goals of an ADD.
const (
	mostMedian  = 5 * time.Millisecond
	mostOfTable = 1.6 // times one empty table
	leastOfExec = 5.0 // so many times less than linkerd-cni's execs
)

// report writes the table, and the samples to a file.
func report(w io.Writer, file string, list []variant, samples [][]sample) error {
	wall, cpu := map[string][]time.Duration{}, map[string][]time.Duration{}
	for i, v := range list {
		for _, s := range samples[i] {
			wall[v.name], cpu[v.name] = append(wall[v.name], s.wall), append(cpu[v.name], s.cpu)
		}
		slices.Sort(wall[v.name])
		slices.Sort(cpu[v.name])
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "ms, %d runs of each\tmin\tp25\tmedian\tp75\tp90\tCPU\t× one empty table\tlinkerd-cni is ×\n", len(samples[0]))
	for _, v := range list {
		ours, m := wall[v.name], quantile(wall[v.name], .5)
		table, execs := ratio(m, quantile(wall[tableName], .5)), ratio(quantile(wall[linkerdName], .5), m)
		total, ofTable, ofExecs := "", "", ""
		if v.ours {
			total, ofTable, ofExecs = mark(m <= mostMedian), mark(table <= mostOfTable), mark(execs >= leastOfExec)
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s%s\t%s\t%s\t%s\t%.2f%s\t%.1f%s\n", v.name,
			ms(ours[0]), ms(quantile(ours, .25)), ms(m), total, ms(quantile(ours, .75)), ms(quantile(ours, .9)),
			ms(quantile(cpu[v.name], .5)), table, ofTable, execs, ofExecs)
	}
	fmt.Fprintf(tw, "goals of an ADD\t\t\t≤ %s\t\t\t\t≤ %g\t≥ %g\n", ms(mostMedian), mostOfTable, leastOfExec)
	if err := tw.Flush(); err != nil {
		return err
	}
	var u unix.Utsname
	_ = unix.Uname(&u)
	fmt.Fprintf(w, "%s, Linux %s, %s\n", time.Now().UTC().Format(time.DateOnly), unix.ByteSliceToString(u.Release[:]), processor())
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, benchstat(list, samples), 0o644)
}

// benchstat is the samples as go test -bench would print them.
func benchstat(list []variant, samples [][]sample) []byte {
	var b bytes.Buffer
	for i, v := range list {
		name := strings.NewReplacer(" ", "_", ",", "").Replace(v.name)
		for _, s := range samples[i] {
			fmt.Fprintf(&b, "BenchmarkADD/%s 1 %d ns/op %d cpu-ns/op\n", name, s.wall.Nanoseconds(), s.cpu.Nanoseconds())
		}
	}
	return b.Bytes()
}

// quantile of sorted values.
func quantile(sorted []time.Duration, q float64) time.Duration {
	return sorted[int(q*float64(len(sorted)-1)+.5)]
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(b) }
func ms(d time.Duration) string        { return fmt.Sprintf("%.2f", float64(d.Nanoseconds())/1e6) }

// mark says whether a goal is met.
func mark(met bool) string {
	if met {
		return " ok"
	}
	return " SHORT"
}

func processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return fmt.Sprintf("%s × %d", strings.TrimSpace(value), strings.Count(string(text), "processor\t"))
		}
	}
	return "unknown processor"
}
