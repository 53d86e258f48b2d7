package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The goals are judged by the medians, and only for the plugin.
func TestReport(t *testing.T) {
	list := []variant{{name: "tproxy-cni ADD, nat", ours: true}, {name: tableName}, {name: linkerdName}}
	samples := make([][]sample, len(list))
	for i, wall := range []time.Duration{4 * time.Millisecond, 2 * time.Millisecond, 40 * time.Millisecond} {
		for n := range 6 {
			samples[i] = append(samples[i], sample{wall * time.Duration(10+n) / 10, 9 * time.Millisecond})
		}
	}
	file := filepath.Join(t.TempDir(), "new", "cni.txt")
	var out strings.Builder
	if err := report(&out, file, list, samples); err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(out.String()), " ")
	for _, want := range []string{
		"tproxy-cni ADD, nat 4.00 5.00 ±20% ok 9.00 ±0% 2.00 SHORT 10.0 ok",
		"one empty table, Go 2.00 2.50 ±20% 9.00 ±0% 1.00 20.0",
		"goals of an ADD ≤ 5 ≤ 1.6 ≥ 5",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	stat, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if want := "BenchmarkADD/tproxy-cni_ADD_nat 1 4e+06 ns/op 9e+06 cpu-ns/op\n"; !strings.HasPrefix(string(stat), want) {
		t.Errorf("%.200s", stat)
	}
}
