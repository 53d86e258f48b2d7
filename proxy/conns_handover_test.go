package main

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/proxy/dial"
	"github.com/tproxy-cni/tproxy-cni/proxy/handover"
	"github.com/tproxy-cni/tproxy-cni/proxy/relay"
	"github.com/tproxy-cni/tproxy-cni/proxy/sys"
)

// TestTakeOver: ages, deadlines and what is due are the same in the program that takes
// over, whose own time begins elsewhere.
func TestTakeOver(t *testing.T) {
	began := time.Now().Add(-time.Hour)
	fresh := func() *conns {
		cs := newConns(&shared{dialer: dial.New("nat", 5000, dial.NewAddrs())}, epoll(t), 1)
		cs.start, cs.now = began, time.Now()
		cs.sweep = sweep{logOpen: time.Minute, halfClosed: time.Hour}
		t.Cleanup(cs.buffers.Close)
		return cs
	}
	old := fresh()
	old.sweep.told = 30 * time.Minute
	old.sweep.newest = 50 * time.Minute
	var pairs [][2]int
	add := func(at time.Duration, change func(c *conn)) *conn {
		in, out := lab.TCPPair(t), lab.TCPPair(t)
		pairs = append(pairs, [2]int{in[0], out[0]})
		c := old.newConn()
		c.client, c.dst, c.port, c.began = netip.MustParseAddrPort("192.0.2.1:4711"), netip.MustParseAddrPort("192.0.2.2:80"), 4711, at
		for i, fd := range []int{in[1], out[1]} {
			c.relay.Sides[i] = relay.Side{FD: int32(fd), Writable: true}
			old.place(c, i)
		}
		change(c)
		return c
	}
	add(10*time.Minute, func(*conn) {}) // has been logged as open
	add(40*time.Minute, func(*conn) {}) // has not
	add(20*time.Minute, func(c *conn) { c.halved, c.halvedAt, c.served = true, tenthsOf(25*time.Minute), true })
	add(50*time.Minute, func(c *conn) {
		c.dialing = true
		old.dials = append(old.dials, dialing{c.ref(), c.relay.Sides[relay.Application].FD, old.now.Add(20 * time.Second)})
	})
	add(50*time.Minute, func(c *conn) {
		c.dialing = true
		old.dials = append([]dialing{{c.ref(), c.relay.Sides[relay.Application].FD, old.now.Add(10 * time.Second)}}, old.dials...)
	})
	add(50*time.Minute, func(c *conn) {
		c.dialing = true
		old.slots[c.relay.Sides[relay.Application].FD] = slot{}
		c.relay.Sides[relay.Application].FD = -1
		old.headers.enter(c, fromFront)
		old.headers.add(c, old.now)
	})

	next := fresh()
	next.start = began.Add(-time.Second) // the first of several loops began then
	var all []handover.Conn
	if err := old.handOver(handover.NewClock(), func(h *handover.Conn) error {
		all = append(all, *h)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	clock := handover.NewClock()
	for i := range all {
		next.takeOver(&all[i], clock)
	}
	next.sortDeadlines()

	near := func(what string, got, want time.Duration) {
		t.Helper()
		if d := (got - want).Abs(); d > 4*time.Second { // a machine may be busy between two readings of the clocks
			t.Errorf("%s is %v, want %v", what, got, want)
		}
	}
	if next.count != old.count || next.count != 6 {
		t.Fatalf("%d connections, want %d", next.count, old.count)
	}
	var begins []time.Duration
	for _, s := range next.slots {
		if s.conn != nil && s.side == relay.Client {
			begins = append(begins, s.conn.began)
			if s.conn.halved {
				near("half-closed", s.conn.halvedAt.duration(), 25*time.Minute+time.Second)
				if !s.conn.served {
					t.Error("it is forgotten that the application ended first")
				}
			}
		}
	}
	for i, want := range []int{10, 40, 20, 50, 50, 50} {
		near("the beginning", begins[i], time.Duration(want)*time.Minute+time.Second)
	}
	near("the last one logged as open", next.sweep.told, 20*time.Minute+time.Second)
	near("the newest", next.sweep.newest, 50*time.Minute+time.Second)
	if n := next.stats.HalfClosed.Load(); n != 1 {
		t.Errorf("%d are half-closed", n)
	}
	if len(next.dials) != 2 || len(next.headers.awaited) != 1 {
		t.Fatalf("%d dials and %d headers, want 2 and 1", len(next.dials), len(next.headers.awaited))
	}
	near("the first dial's deadline", next.dials[0].deadline.Sub(old.now), 10*time.Second)
	near("the second's", next.dials[1].deadline.Sub(old.now), 20*time.Second)
	near("the header's", next.headers.awaited[0].deadline.Sub(old.now), headerTime)
	if !next.headers.awaited[0].waits() || !next.dials[0].underWay() {
		t.Error("they are not waited for")
	}

	// What is there already is reported.
	if _, err := unix.Write(pairs[0][0], []byte("hello")); err != nil {
		t.Fatal(err)
	}
	r := &rig{conns: next, events: make([]sys.Event, 8)}
	r.round(t, 1000)
	got := make([]byte, 8)
	if n, err := unix.Read(pairs[0][1], got); err != nil || string(got[:max(0, n)]) != "hello" {
		t.Errorf("%q arrives: %v", got[:max(0, n)], err)
	}
}
