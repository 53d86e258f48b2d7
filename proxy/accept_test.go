package main

import (
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
	"github.com/tproxy-cni/tproxy-cni/proxy/stats"
	"github.com/tproxy-cni/tproxy-cni/proxy/sys"
)

// acceptorOf is an acceptor on a unix socket of its own, and the way to it. What it
// serves it counts.
func acceptorOf(t *testing.T, s *shared, served *int) (a *acceptor, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "s")
	ln, err := sock.ListenUnix(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(ln.FD) })
	return &acceptor{
		shared: s, fd: ln.FD, poll: epoll(t), stats: &stats.Loop{},
		serve: func(fd int, _ netip.AddrPort) { *served++; sys.Close(fd) },
		scarce: backoff{warn: func(err error) {
			if !strings.HasPrefix(err.Error(), "the --accept-proxy socket has ") {
				t.Errorf("warned of: %v", err)
			}
		}},
		shortage: backoff{warn: func(err error) { t.Error(err) }},
	}, path
}

// TestCrowdOfTwo: two listeners together make as many clients wait as one alone, so that
// reserved places are left, and what waits at one counts for the other.
func TestCrowdOfTwo(t *testing.T) {
	const limit, reserved = 256, 16
	crowd, now, served := fromFront.Addr(), time.Now(), 0
	s := &shared{places: places{limit: limit, reserved: reserved, freed: func() {}}}
	for range limit - reserved {
		s.places.take()
		s.places.enter(crowd)
	}
	come := func(a *acceptor, path string, n int) {
		t.Helper()
		for range n {
			c, err := net.Dial("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
		}
		a.accept(now)
	}
	want := func(what string, waits, held, serves int) {
		t.Helper()
		if n, taken := int(s.places.waiting), int(s.places.taken.Load()); n != waits || taken != held || served != serves {
			t.Errorf("%s: %d wait, %d places are taken, %d served, want %d, %d, %d", what, n, taken, served, waits, held, serves)
		}
	}
	one, first := acceptorOf(t, s, &served)
	two, second := acceptorOf(t, s, &served)
	come(one, first, reserved/2)
	come(two, second, reserved/2)
	want("a crowd at both", reserved/2, limit-reserved/2, 0)
	if !s.places.take() {
		t.Fatal("no place is left")
	}
	if _, ok := s.places.enter(clientNumber(1)); !ok {
		t.Error("another source gets none of the reserved places")
	}
	s.places.leave(clientNumber(1))

	s.places.leave(crowd)
	come(two, second, 1)
	want("one has left, and one has come to the other listener", reserved/2, limit-reserved/2, 1)
	for range reserved/2 + 1 {
		s.places.leave(crowd)
	}
	one.letIn()
	two.letIn()
	want("as many have left as wait", 0, limit-reserved-1, 1+reserved/2)
}

// TestWatchRefused: an acceptor whose listener epoll does not take tries again.
func TestWatchRefused(t *testing.T) {
	served, now := 0, time.Now()
	s := &shared{places: places{limit: 256, freed: func() {}}}
	a, _ := acceptorOf(t, s, &served)
	if err := a.poll.Add(a.fd, 0, 0); err != nil {
		t.Fatal(err)
	}
	works := a.poll
	a.poll = sys.Epoll{} // of descriptor 0, which is none
	due := a.tick(now, true)
	if a.watched || due.IsZero() {
		t.Fatalf("watched %t, again at %v", a.watched, due)
	}
	a.poll = works
	if due = a.tick(due, true); !a.watched || !due.IsZero() {
		t.Errorf("watched %t, again at %v", a.watched, due)
	}
}
