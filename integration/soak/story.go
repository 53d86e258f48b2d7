package main

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// soak is one run.
type soak struct {
	options
	t      lab.TB
	sites  []*site
	ledger ledger
}

// story is the whole soak.
func story(t lab.TB, o options) {
	lab.Need(t, tools...)
	if err := os.RemoveAll(filepath.Join(o.out, reportName)); err != nil { // of an earlier run
		t.Fatalf("%v", err)
	}
	if _, err := lab.RaiseFileLimit(); err != nil {
		t.Fatalf("%v", err)
	}
	s := &soak{options: o, t: t}
	s.makeSites()

	// What the first connections leave, such as tables that have grown, is no leak.
	t.Logf("warming up")
	s.traffic(min(10*time.Second, o.round/2), 0, false)
	before := s.quiet()
	began := time.Now()
	for round := 1; time.Since(began) < o.took; round++ {
		s.traffic(min(o.round, o.took-time.Since(began)+time.Second), round, true)
		sum := s.ledger.of(place{})
		t.Logf("round %d, %.1f min: %d connections, %d peers compared, %.1f GB", round, time.Since(began).Minutes(), sum.Conns, sum.Peers, float64(sum.Bytes)/1e9)
	}
	took := time.Since(began)
	t.Logf("waiting for what vanished clients have left")
	after := s.quiet()

	r := newReport(&s.ledger, took, before, after)
	if err := r.write(os.Stdout, o.out); err != nil {
		t.Fatalf("%v", err)
	}
}

func (s *soak) makeSites() {
	bin, err := filepath.Abs(s.bin)
	if err != nil {
		s.t.Fatalf("%v", err)
	}
	users := lab.Copies(s.t, map[string]string{"soak": "/proc/self/exe", "tproxy-proxy": filepath.Join(bin, "tproxy-proxy")})
	for _, mode := range []string{contract.ModeNAT, contract.ModeTProxy} {
		dir := filepath.Join(users, mode)
		err := os.Mkdir(dir, 0o755)
		if err == nil {
			err = os.Chown(dir, appUID, appUID)
		}
		if err != nil {
			s.t.Fatalf("%v", err)
		}
		s.sites = append(s.sites, newSite(s.t, mode, bin, users, dir))
	}
}

// traffic is a round of all kinds of clients at once, in both modes and families. A
// connection that is wrong makes it the last.
func (s *soak) traffic(took time.Duration, round int, withGhosts bool) {
	var all sync.WaitGroup
	for _, site := range s.sites {
		for _, f := range families {
			for k := range kinds {
				all.Go(func() { s.ours(site, f, k, took) })
			}
		}
		all.Go(func() { s.real(site, round) })
		if withGhosts && s.kinds.MatchString(ghostsGone) {
			all.Go(func() { site.haunt(&s.ledger) })
		}
	}
	all.Wait()
	for _, site := range s.sites {
		if err := site.appsLive(); err != nil {
			s.ledger.failures = append([]string{err.Error()}, s.ledger.failures...)
		}
	}
	if s.t.Failed() { // a goroutine has said why
		s.t.Fatalf("a client could not be started")
	}
	if n := len(s.ledger.failures); n > 0 {
		s.t.Fatalf("%d clients saw what must not be:\n%s", n, strings.Join(s.ledger.failures[:min(n, 10)], "\n"))
	}
}

// ours runs the clients of a kind.
func (s *soak) ours(site *site, f family, k int, took time.Duration) {
	p := place{kinds[k].name, site.mode, f.name}
	if !s.kinds.MatchString(p.kind) {
		return
	}
	r, err := site.load(k, f, took, s.ledger.used(p))
	if err != nil {
		s.ledger.fail(p, err)
		return
	}
	s.ledger.add(p, cellOf(r))
}

// real runs the real programs, one after the other.
func (s *soak) real(site *site, round int) {
	for _, f := range families {
		for i, program := range programs {
			p := place{program.name, site.mode, f.name}
			if !s.kinds.MatchString(p.kind) {
				continue
			}
			c, err := program.run(site, f, f.sourcesOf(len(kinds) + i)[0], round)
			if err != nil {
				s.ledger.fail(p, err)
				continue
			}
			s.ledger.add(p, c)
		}
	}
}
