package main

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/proxy/relay"
	"github.com/tproxy-cni/tproxy-cni/proxy/sys"
)

// rig is a loop's connections, with one whose far ends are at hand.
type rig struct {
	*conns
	client, application int // the far ends
	events              []sys.Event
}

// newRig makes a rig that has pipes or, with as many loops as that, none.
func newRig(t testing.TB, loops int) *rig {
	t.Helper()
	in, out := lab.TCPPair(t), lab.TCPPair(t)
	r := &rig{conns: newConns(&shared{}, epoll(t), loops), client: in[0], application: out[0], events: make([]sys.Event, 8)}
	r.now = time.Now()
	t.Cleanup(r.buffers.Close)
	c := r.newConn()
	for i, fd := range []int{in[1], out[1]} {
		c.relay.Sides[i] = relay.Side{FD: int32(fd), Writable: true}
		r.place(c, i)
		r.watch(c, i, 0)
	}
	return r
}

// round waits for events and serves them.
func (r *rig) round(t testing.TB, timeout int) {
	n, err := r.poll.Wait(r.events, timeout)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		r.event(&r.events[i])
	}
	r.resume()
}

// BenchmarkExchange is a request and its answer: two wake-ups, two reads and two
// writes of ours, and as many of the two ends.
func BenchmarkExchange(b *testing.B) {
	for _, size := range []int{64, 4 << 10} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			r := newRig(b, 1)
			message := make([]byte, size)
			b.ReportAllocs()
			for b.Loop() {
				for _, way := range [2][2]int{{r.client, r.application}, {r.application, r.client}} {
					if n, err := sys.Write(way[0], message); n != size || err != nil {
						b.Fatal(n, err)
					}
					for got := 0; got < size; {
						r.round(b, -1)
						n, err := sys.Read(way[1], message)
						if err != nil && err != sys.ErrAgain {
							b.Fatal(err)
						}
						got += max(n, 0)
					}
				}
			}
		})
	}
}

// BenchmarkBulk is one direction's stream, spliced and copied.
func BenchmarkBulk(b *testing.B) {
	for _, kind := range []struct {
		name  string
		loops int
	}{{"splice", 1}, {"copy", 2 * relay.MaxPipes}} {
		b.Run(kind.name, func(b *testing.B) {
			const block = 1 << 20
			r := newRig(b, kind.loops)
			data, sink := make([]byte, block), make([]byte, block)
			b.SetBytes(block)
			b.ReportAllocs()
			for b.Loop() {
				for sent, got := 0, 0; got < block; {
					if sent < block {
						n, err := sys.Write(r.client, data[sent:])
						if err != nil && err != sys.ErrAgain {
							b.Fatal(err)
						}
						sent += max(n, 0)
					}
					r.round(b, 0)
					n, err := sys.Read(r.application, sink)
					if err != nil && err != sys.ErrAgain {
						b.Fatal(err)
					}
					got += max(n, 0)
				}
			}
		})
	}
}

// BenchmarkSweep is one round's part of a sweep, over connections that are not due.
func BenchmarkSweep(b *testing.B) {
	cs := newConns(&shared{}, epoll(b), 1)
	cs.sweep = sweep{logOpen: time.Hour, halfClosed: time.Hour, newest: math.MaxInt64}
	cs.slots = make([]slot, 64*slotsPerRound)
	for fd := 0; fd < len(cs.slots); fd += 2 {
		c := cs.newConn()
		cs.slots[fd], cs.slots[fd+1] = slot{c, relay.Client}, slot{c, relay.Application}
	}
	cs.now = time.Now()
	cs.sweepOn() // when the first is due
	for b.Loop() {
		if cs.sweep.at == 0 {
			cs.now = cs.sweep.due
		}
		cs.sweepOn()
	}
}
