package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tproxy-cni/tproxy-cni/integration/bench/figures"
	"github.com/tproxy-cni/tproxy-cni/integration/results"
)

// testReport is of two rounds; in the second everything was twice as slow, and
// one measurement failed.
func testReport(t *testing.T) *report {
	b := &bench{options: options{out: t.TempDir(), families: []family{v4}, rounds: 2}}
	for _, v := range []variant{
		{name: directName, role: limit},
		{name: "tproxy", role: ours},
		{name: "tproxy-bare", role: reduced, full: "tproxy"},
		{name: "haproxy-1", role: peer},
		{name: "nginx-1", role: peer},
	} {
		b.sites = append(b.sites, &site{variant: v})
	}
	add := func(variant, metric string, rounds ...float64) {
		for i, x := range rounds {
			b.samples = append(b.samples, sample{i + 1, v4.name, variant, metric, x, "unit"})
		}
	}
	add(directName, "rr64", 60, 30)
	add("tproxy", "rr64", 30, 15)
	add("tproxy-bare", "rr64", 33, 18)
	add("haproxy-1", "rr64", 25, 10)
	add("nginx-1", "rr64", 15, 15)
	add("tproxy", "start", 5, 6)
	add("nginx-1", "start", 7, 8)
	add("tproxy", "conns", 5)
	add("tproxy-bare", "conns", 6, 7)
	add(directName, "growth-100-kernel", 8, 9)
	add("tproxy", "growth-100-kernel", 17, 19)
	return newReport(b, environment{Date: time.Unix(0, 0).UTC(), Machine: results.Machine{Kernel: "6.18", CPUs: 2, CPU: "EPYC"}, Rounds: 2})
}

func TestPaired(t *testing.T) {
	r := testReport(t)
	for metric, want := range map[string]float64{"rr64": 1.15, "conns": 1.2} {
		got := r.paired(key{v4.name, "tproxy-bare", metric}, key{v4.name, "tproxy", metric})
		if got.Samples == 0 || got.String() != figures.Number(want) {
			t.Errorf("%s: %v, want %v", metric, got, want)
		}
	}
	if r.paired(key{v4.name, "tproxy-bare", "rr64"}, key{v4.name, "nat", "rr64"}).Samples > 0 {
		t.Error("a ratio to what was not measured")
	}
}

func TestBeyondDirect(t *testing.T) {
	r := testReport(t)
	if got := r.figure(key{v4.name, "tproxy", "growth-100-beyond"}); got.Samples != 2 || got.Center != 9.5 {
		t.Errorf("%v, want 9.5", got)
	}
	if got := r.figure(key{v4.name, directName, "growth-100-beyond"}); got.Samples > 0 {
		t.Errorf("direct is %v beyond itself", got)
	}
}

func TestTables(t *testing.T) {
	r := testReport(t)
	for name, tt := range map[string]struct {
		rules bool
		want  []string
		not   string
	}{
		"peers": {false, []string{
			"| 64 conns, requests, k/s | 45.0 | 22.5 | 17.5 | 15.0 |",
			"| 64 conns, requests | ≥1.2× ≥0.52× | haproxy-1 | 1.35× ok | 0.50× SHORT |",
			"| start to ready | ≤20.0 ms |  | 5.50 ok |  |",
			"| of it beyond direct, kB |  | 9.50 |",
		}, "bare"},
		"rules": {true, []string{
			"| direct | 45.0 |", "| tproxy | 22.5 |", "| tproxy-bare | 1.15× |", "no confidence intervals",
		}, "SHORT"},
	} {
		r.options.rules = tt.rules
		if err := r.write(&strings.Builder{}); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(r.out, "table.md"))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range tt.want {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s: no %q in\n%s", name, want, text)
			}
		}
		if strings.Contains(string(text), tt.not) {
			t.Errorf("%s: %q in\n%s", name, tt.not, text)
		}
	}
}

// Six rounds give confidence intervals: of the medians, and of the ratios, in
// which what all of a round had in common does not count.
func TestIntervals(t *testing.T) {
	b := &bench{options: options{out: t.TempDir(), families: []family{v4}, rounds: 6}}
	for _, v := range []variant{{name: directName, role: limit}, {name: "nat", role: ours}, {name: "nginx-1", role: peer}} {
		b.sites = append(b.sites, &site{variant: v})
		value := map[string]float64{directName: 80, "nat": 30, "nginx-1": 20}[v.name]
		for round := range 6 {
			b.samples = append(b.samples, sample{round + 1, v4.name, v.name, "rr64", value * float64(10+round) / 10, "k/s"})
		}
	}
	if err := newReport(b, environment{Rounds: 6}).write(&strings.Builder{}); err != nil {
		t.Fatal(err)
	}
	for file, wants := range map[string][]string{
		"table.md": {
			"± is the 95 % confidence interval of the median",
			"| 64 conns, requests, k/s | 100 ±20% | 37.5 ±20% | 25.0 ±20% |",
			"| 64 conns, requests | ≥1.2× ≥0.52× | nginx-1 | 1.50× ±0% ok | 0.38× ±0% SHORT |",
		},
		"benchstat.txt": {"Benchmark/metric=rr64/family=IPv4/variant=nat 1 45 k/s\n"},
	} {
		text, err := os.ReadFile(filepath.Join(b.out, file))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range wants {
			if !strings.Contains(string(text), want) {
				t.Errorf("no %q in\n%s", want, text)
			}
		}
	}
}

// TestPlots: a picture is small, and says of when and what it is.
func TestPlots(t *testing.T) {
	r := testReport(t)
	if err := r.plots(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(r.out, "growth-IPv4.svg"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"1970-01-01", "Linux 6.18", "EPYC", "sans-serif", "#35B779", ">tproxy<"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q", want)
		}
	}
	if strings.Contains(string(text), "bare") || len(text) > 60_000 {
		t.Errorf("%d bytes:\n%.2000s", len(text), text)
	}
	if _, err := os.Stat(filepath.Join(r.out, "memory-IPv4.svg")); !os.IsNotExist(err) {
		t.Errorf("a picture of nothing: %v", err)
	}
}
