package main

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/proxy/handover"
	"github.com/tproxy-cni/tproxy-cni/proxy/relay"
)

// endSweep ends the one under way: those logged as open are those that began until one
// moment then.
func (cs *conns) endSweep() {
	for cs.sweep.at != 0 {
		cs.sweepOn()
	}
}

// handOver describes all connections, between two rounds.
func (cs *conns) handOver(clock handover.Clock, add func(*handover.Conn) error) error {
	until := map[*conn]time.Time{}
	for _, d := range cs.dials {
		if d.underWay() {
			until[d.conn] = d.deadline
		}
	}
	for _, a := range cs.headers.awaited {
		if a.waits() {
			until[a.conn] = a.deadline
		}
	}
	for _, s := range cs.slots {
		if s.conn == nil || s.side != relay.Client {
			continue
		}
		h := cs.describe(s.conn, clock)
		if s.conn.dialing {
			h.Dialing = clock.Moment(until[s.conn])
		}
		if err := add(&h); err != nil {
			return err
		}
	}
	return nil
}

func (cs *conns) describe(c *conn, clock handover.Clock) handover.Conn {
	h := handover.Conn{
		Client: c.client, Dst: c.dst, Port: c.port,
		Began:  clock.Moment(cs.start.Add(c.began)),
		Logged: cs.sweep.logOpen > 0 && c.began <= cs.sweep.told, Yielded: c.yielded, Lingers: c.lingers, Served: c.served,
		Attempt: c.attempt.HandOver(), Relay: c.relay.HandOver(),
	}
	if c.headed {
		h.Peer = cs.headers.peers[c]
	}
	if c.halved {
		h.Halved = clock.Moment(cs.start.Add(c.halvedAt.duration()))
	}
	return h
}

// takeOver makes a connection that another program describes this loop's, which does not
// run yet. What epoll would report now it reports; what it has reported is in the
// description. Once all are here, call sortDeadlines.
func (cs *conns) takeOver(h *handover.Conn, clock handover.Clock) {
	c := cs.newConn()
	c.client, c.dst, c.port = h.Client, h.Dst, h.Port
	c.began = clock.Time(h.Began).Sub(cs.start)
	c.dialing, c.lingers, c.served = h.Dialing != 0, h.Lingers, h.Served
	c.relay.TakeOver(h.Relay, cs.buffers)
	c.attempt = cs.dialer.TakeOver(h.Attempt, c.pair())
	for _, fd := range h.Relay.Descriptors() {
		unix.CloseOnExec(int(*fd))
	}
	for i := range c.relay.Sides {
		if c.relay.Sides[i].FD >= 0 {
			cs.place(c, i)
		}
	}
	if h.Peer.IsValid() {
		cs.headers.enter(c, h.Peer)
	}
	if h.Halved != 0 {
		c.halved, c.halvedAt = true, tenthsOf(clock.Time(h.Halved).Sub(cs.start))
		cs.stats.HalfClosed.Add(1)
	}
	cs.sweep.newest = max(cs.sweep.newest, c.began)
	if h.Logged {
		cs.sweep.told = max(cs.sweep.told, c.began)
	}
	if c.relay.Over(relay.Application) && !c.lingers {
		cs.half.add(c.ref(), cs.now)
	}
	if h.Yielded {
		c.yielded = true
		cs.yielded = append(cs.yielded, c.ref())
	}
	cs.watchAgain(c, clock.Time(h.Dialing))
}

// watchAgain has epoll report what the connection waits for.
func (cs *conns) watchAgain(c *conn, until time.Time) {
	for i := range c.relay.Sides {
		s := &c.relay.Sides[i]
		if s.FD < 0 {
			continue
		}
		more := uint32(0)
		if i == relay.Application && c.dialing || !c.dialing && !s.Writable {
			more = unix.EPOLLOUT
		}
		if !cs.watch(c, i, more) {
			return
		}
	}
	switch fd := c.relay.Sides[relay.Application].FD; {
	case !c.dialing:
	case fd < 0:
		cs.headers.awaited = append(cs.headers.awaited, awaited{c.ref(), until})
	default:
		cs.dials = append(cs.dials, dialing{c.ref(), fd, until})
	}
}

// sortDeadlines puts those of connections that were taken over in their order.
func (cs *conns) sortDeadlines() {
	slices.SortFunc(cs.dials, func(a, b dialing) int { return a.deadline.Compare(b.deadline) })
	slices.SortFunc(cs.headers.awaited, func(a, b awaited) int { return a.deadline.Compare(b.deadline) })
}
