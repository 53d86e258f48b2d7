package main

import (
	"net/netip"
	"slices"
	"time"

	"github.com/tproxy-cni/tproxy-cni/proxy/relay"
	"github.com/tproxy-cni/tproxy-cni/proxy/report"
)

// walk looks at all connections of a loop for whoever asks what they do: slotsPerRound
// in each round, so that the others do not wait for long. Neither side locks anything.
// Its memory is the asker's and bounded; a connection has nothing of its own for it.
type walk struct {
	next    int // slot
	states  report.States
	byBytes top
	byAge   top

	done chan struct{} // closed when the lists are complete
	list [2][]report.Connection
}

// top is the connections that come first in an order, the first of them first.
type top []ranked

type ranked struct {
	ref
	rank int64 // the greatest first
}

func newWalk() *walk {
	return &walk{byBytes: make(top, 0, report.Most), byAge: make(top, 0, report.Most), done: make(chan struct{})}
}

// step looks at a slice of the connections and reports whether it was the last.
func (w *walk) step(cs *conns) (over bool) {
	end := min(len(cs.slots), w.next+slotsPerRound)
	for _, s := range cs.slots[min(w.next, end):end] {
		if s.conn == nil || s.side != relay.Client {
			continue
		}
		w.count(s.conn)
		w.byBytes.offer(s.conn, s.conn.relay.Moved(relay.Client)+s.conn.relay.Moved(relay.Application))
		w.byAge.offer(s.conn, -int64(s.conn.began))
	}
	if w.next = end; end < len(cs.slots) {
		return false
	}
	now := time.Since(cs.start)
	w.list = [2][]report.Connection{w.byBytes.rows(cs, now), w.byAge.rows(cs, now)}
	close(w.done)
	return true
}

func (w *walk) count(c *conn) {
	s := &w.states
	switch c.state() {
	case report.AwaitingHeader:
		s.AwaitingHeader++
	case report.Connecting:
		s.Connecting++
	case report.HalfClosedByClient:
		s.HalfClosedByClient++
	case report.HalfClosedByApplication:
		s.HalfClosedByApplication++
	default:
		s.Relaying++
	}
	if c.relay.NeedsRoom(relay.Client) {
		s.BlockedByClient++
	}
	if c.relay.NeedsRoom(relay.Application) {
		s.BlockedByApplication++
	}
}

// offer puts a connection where it belongs, if that is among the first.
func (t *top) offer(c *conn, rank int64) {
	l := *t
	if len(l) == cap(l) {
		if rank <= l[len(l)-1].rank {
			return
		}
		l = l[:len(l)-1]
	}
	at := len(l)
	for at > 0 && l[at-1].rank < rank {
		at--
	}
	*t = slices.Insert(l, at, ranked{c.ref(), rank})
}

// rows are those that have not ended since, at now of the loop's time.
func (t top) rows(cs *conns, now time.Duration) []report.Connection {
	rows := make([]report.Connection, 0, len(t))
	for _, r := range t {
		if r.live() {
			rows = append(rows, r.conn.row(cs.headers.peers[r.conn], now))
		}
	}
	return rows
}

// row is the connection at now of the loop's time. peer is whose PROXY header it has or
// awaits, not valid if it has none.
func (c *conn) row(peer netip.AddrPort, now time.Duration) report.Connection {
	r := report.Connection{
		Client: c.client, Destination: c.dst, Source: c.source(), State: c.state(),
		BytesUp: c.relay.Moved(relay.Client), BytesDown: c.relay.Moved(relay.Application),
		AgeSeconds: (now - c.began).Seconds(),
	}
	switch {
	case peer == fromFront:
		r.Via = report.OnSocket
	case peer.IsValid():
		r.Via = peer.String()
	}
	if c.client == fromFront {
		r.Client = netip.AddrPort{}
	}
	switch client, application := c.relay.NeedsRoom(relay.Client), c.relay.NeedsRoom(relay.Application); {
	case client && application:
		r.BlockedBy = "both"
	case client:
		r.BlockedBy = "client"
	case application:
		r.BlockedBy = "application"
	}
	return r
}

func (c *conn) state() string {
	switch {
	case c.dialing && c.headed && c.relay.Sides[relay.Application].FD < 0:
		return report.AwaitingHeader
	case c.dialing:
		return report.Connecting
	case c.over(relay.Client):
		return report.HalfClosedByClient
	case c.over(relay.Application):
		return report.HalfClosedByApplication
	}
	return report.Relaying
}
