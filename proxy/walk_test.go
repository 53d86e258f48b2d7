package main

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/tproxy-cni/tproxy-cni/proxy/relay"
	"github.com/tproxy-cni/tproxy-cni/proxy/report"
	"github.com/tproxy-cni/tproxy-cni/proxy/sys"
)

// crowded is a loop's connections, n of them, without sockets. They are the older the
// later they are in the table.
func crowded(n int) *conns {
	cs := newConns(&shared{}, sys.Epoll{}, 1)
	for i := range n {
		c := cs.newConn()
		c.client = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}), 1)
		c.relay.Sides[relay.Client].FD, c.relay.Sides[relay.Application].FD = int32(2*i), int32(2*i+1)
		c.began = time.Duration(n-i) * time.Microsecond
		cs.place(c, relay.Client)
		cs.place(c, relay.Application)
	}
	return cs
}

// TestWalk: a walk takes many steps, finds the oldest of many connections, and leaves
// out one that has ended since it was seen.
func TestWalk(t *testing.T) {
	const n = 10_000
	cs, w, steps := crowded(n), newWalk(), 1
	for ; !w.step(cs); steps++ {
		if steps == 15 {
			cs.freeConn(cs.slots[0].conn)
		}
	}
	if w.states != (report.States{Relaying: n}) {
		t.Errorf("states %+v, want %d relaying", w.states, n)
	}
	if least := 2 * n / slotsPerRound; steps < least {
		t.Errorf("%d steps, want at least %d", steps, least)
	}
	if len(w.list[1]) != report.Most {
		t.Fatalf("%d connections, want %d", len(w.list[1]), report.Most)
	}
	for i, c := range w.list[1] {
		if want := cs.slots[2*(n-1-i)].conn.client; c.Client != want {
			t.Errorf("the oldest but %d is %s, want %s", i, c.Client, want)
		}
	}
	if l := w.list[0]; len(l) != report.Most-1 {
		t.Errorf("%d connections, want all but the one that has ended", len(l))
	}
}

// TestWalkHeaders: a connection that waits for its header is not one whose application is
// slow, and the address by which the socket's are known is not shown as anybody's.
func TestWalkHeaders(t *testing.T) {
	cs, w := crowded(3), newWalk()
	balancer := netip.MustParseAddrPort("[2001:db8::5]:443")
	cs.headers.peers = map[*conn]netip.AddrPort{}
	for i, peer := range []netip.AddrPort{fromFront, balancer, fromFront} {
		c := cs.slots[2*i].conn
		c.dialing, c.headed, cs.headers.peers[c] = true, true, peer
		if i < 2 {
			c.client, c.relay.Sides[relay.Application].FD = peer, -1
		}
	}
	for !w.step(cs) {
	}
	if want := (report.States{AwaitingHeader: 2, Connecting: 1}); w.states != want {
		t.Errorf("states %+v, want %+v", w.states, want)
	}
	got := w.list[1]
	for i := range got {
		got[i] = report.Connection{Client: got[i].Client, Via: got[i].Via, State: got[i].State}
	}
	if want := []report.Connection{
		{Client: cs.slots[4].conn.client, Via: report.OnSocket, State: report.Connecting},
		{Client: balancer, Via: balancer.String(), State: report.AwaitingHeader},
		{Via: report.OnSocket, State: report.AwaitingHeader},
	}; !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// BenchmarkWalk is what a census costs a loop, and one step of it, for which its
// connections wait. The order is the worst: each is among the oldest so far.
func BenchmarkWalk(b *testing.B) {
	for _, n := range []int{1000, 10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			cs, steps := crowded(n), 0
			for b.Loop() {
				w := newWalk()
				for steps++; !w.step(cs); steps++ {
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(steps), "ns/step")
		})
	}
}
