package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/integration/results"
)

// story is the whole benchmark.
func story(t lab.TB, o options) {
	lab.Need(t, "haproxy", "nginx", "nft", "iperf3", "wrk", "ss", "conntrack")
	limit, err := lab.RaiseFileLimit()
	if err != nil {
		t.Fatalf("%v", err)
	}
	o.idle = min(o.idle, (limit-400)/2)
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		t.Fatalf("%v", err)
	}
	results, err := os.Create(filepath.Join(o.out, "results.json"))
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer results.Close()
	b := &bench{options: o, t: t, results: json.NewEncoder(results)}
	env := describe(o)
	if err := b.results.Encode(env); err != nil {
		t.Fatalf("%v", err)
	}
	b.makeSites()
	for round := range o.rounds {
		for _, f := range o.families {
			for _, m := range measurements {
				b.measureAll(round, f, m)
			}
		}
	}
	if err := newReport(b, env).write(os.Stdout); err != nil {
		t.Fatalf("%v", err)
	}
	if len(b.failures) > 0 {
		t.Fatalf("%d measurements failed:\n%s", len(b.failures), strings.Join(b.failures, "\n"))
	}
}

// makeSites copies the programs to where unprivileged users can run them and
// makes a site for each variant.
func (b *bench) makeSites() {
	files := map[string]string{"bench": "/proc/self/exe"}
	for _, p := range b.proxies {
		files[p.label("proxy")] = p.path
	}
	dir := lab.Copies(b.t, files)
	self := filepath.Join(dir, "bench")
	var proxies []sidecar
	for _, p := range b.proxies {
		proxies = append(proxies, sidecar{p.name, filepath.Join(dir, p.label("proxy"))})
	}
	for _, v := range variants(proxies, b.rules) {
		if b.options.variants.MatchString(v.name) {
			b.sites = append(b.sites, newSite(b.t, v, self, dir))
		}
	}
}

// measureAll does one measurement with every variant, starting with a different
// one in each round.
func (b *bench) measureAll(round int, f family, m measurement) {
	for i := range b.sites {
		s := b.sites[(i+round)%len(b.sites)]
		if !m.wanted(b, s, f, round) {
			continue
		}
		began := time.Now()
		found, err := m.run(b, s, f)
		if err != nil {
			b.failures = append(b.failures, fmt.Sprintf("%s, %s, %s, round %d: %v", s.name, f.name, m.name, round+1, err))
			b.t.Logf("FAILED %s", b.failures[len(b.failures)-1])
			continue
		}
		b.t.Logf("round %d %s %-8s %-18s %5.1f s", round+1, f.name, m.name, s.name, time.Since(began).Seconds())
		for _, metric := range metrics {
			value, ok := found[metric.id]
			if !ok {
				continue
			}
			x := sample{round + 1, f.name, s.name, metric.id, value, metric.unit}
			b.samples = append(b.samples, x)
			if err := b.results.Encode(x); err != nil {
				b.t.Fatalf("%v", err)
			}
		}
	}
}

// describe asks this machine and its programs.
func describe(o options) environment {
	first := func(args ...string) string {
		path, _ := lab.Look(args[0])
		out, _ := exec.Command(path, args[1:]...).CombinedOutput()
		line, _, _ := strings.Cut(string(out), "\n")
		return line
	}
	return environment{
		Date: time.Now().UTC().Truncate(time.Second), Machine: results.ThisMachine(), Go: runtime.Version(),
		HAProxy: first("haproxy", "-v"), Nginx: first("nginx", "-v"),
		Rounds: o.rounds, Duration: o.duration, Idle: o.idle,
	}
}
