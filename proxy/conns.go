package main

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/proxy/accesslog"
	"github.com/tproxy-cni/tproxy-cni/proxy/relay"
	"github.com/tproxy-cni/tproxy-cni/proxy/stats"
	"github.com/tproxy-cni/tproxy-cni/proxy/sys"
)

// conns is the life of one loop's connections, from accepted to closed.
type conns struct {
	*shared
	table
	poll    sys.Epoll
	buffers *relay.Buffers
	stats   stats.Loop

	start time.Time // from which conn.began counts
	now   time.Time // of this round

	yielded []ref     // have more to move, after the others
	dials   []dialing // under way; earliest deadline first
	headers headers
	half    halfClosed
	sweep   sweep
}

func newConns(s *shared, poll sys.Epoll, loops int) *conns {
	cs := &conns{shared: s, poll: poll, buffers: relay.NewBuffers(loops), start: time.Now()}
	cs.stats.Relayed = &cs.buffers.Moved
	return cs
}

// relay moves what can be moved and ends the connection if it is over.
func (cs *conns) relay(c *conn) {
	wasOver := c.relay.Over(relay.Application)
	progress, broken := c.relay.Step(cs.buffers, cs.now)
	if broken != nil {
		cs.breakOff(c, broken)
		return
	}
	if progress == relay.Closed {
		cs.finish(c, accesslog.Outcome{How: accesslog.Closed})
		return
	}
	if !wasOver && c.relay.Over(relay.Application) {
		c.served = !c.relay.Over(relay.Client)
		cs.half.add(c.ref(), cs.now)
	}
	cs.noteHalfClosed(c)
	for i := range c.relay.Sides {
		if c.relay.NeedsRoom(i) && !cs.watch(c, i, unix.EPOLLOUT) {
			return
		}
	}
	if progress == relay.Yields && !c.yielded {
		c.yielded = true
		cs.yielded = append(cs.yielded, c.ref())
	}
}

// resume gives the connections that yielded before this round their next turn.
func (cs *conns) resume() {
	n := len(cs.yielded)
	for i := range n {
		if r := cs.yielded[i]; r.live() {
			r.conn.yielded = false
			cs.relay(r.conn)
		}
	}
	cs.yielded = append(cs.yielded[:0], cs.yielded[n:]...)
}

// event continues the connection that an event is for.
func (cs *conns) event(ev *sys.Event) {
	s := cs.slots[ev.Fd]
	if s.conn == nil || s.conn.id != uint32(ev.Pad) {
		return // ended by an earlier event of this round
	}
	s.conn.relay.Sides[s.side].Note(ev.Events)
	if s.conn.dialing {
		cs.dialed(s.conn)
	} else {
		cs.relay(s.conn)
	}
}

// watch makes epoll report a side's ends, bytes to read and what more asks for. What
// holds already it reports at once. If it cannot, the connection is ended.
func (cs *conns) watch(c *conn, side int, more uint32) (ok bool) {
	before := c.watched[side]
	want := before | unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET | more
	if want == before {
		return true
	}
	c.watched[side] = want
	fd, err := int(c.relay.Sides[side].FD), error(nil)
	if before == 0 {
		err = cs.poll.Add(fd, want, c.id)
	} else {
		err = cs.poll.Modify(fd, want, c.id)
	}
	if err != nil {
		// ENOMEM, ENOSPC (fs.epoll.max_user_watches): no event would come.
		cs.abort(c, accesslog.Outcome{How: accesslog.Exhausted, Err: err})
		return false
	}
	return true
}

// tick does what is due and returns when to come again, zero if nothing is due.
func (cs *conns) tick() (due time.Time) {
	due = sooner(cs.expireDials(), cs.expireHeaders())
	due = sooner(due, cs.buffers.Sweep(cs.now))
	due = sooner(due, cs.half.sweep(cs.now))
	return sooner(due, cs.sweepOn())
}

// breakOff ends a connection one side of which is broken. What that side sent before
// goes to the other as far as there is room.
func (cs *conns) breakOff(c *conn, b *relay.Broken) {
	c.relay.LastWords(b.Side, cs.buffers, cs.now)
	o := accesslog.Outcome{How: b.How(), Err: b.Err}
	if b.Side == relay.Application && c.lingers && sys.Unacknowledged(int(c.relay.Sides[relay.Client].FD)) > 0 {
		// It closed long ago, and the client is slow. As without a sidecar, the
		// client gets the rest and the FIN that are on their way.
		cs.finish(c, o)
		return
	}
	cs.abort(c, o)
}

// finish ends a connection in order: close sends the FINs, and the kernel delivers
// what is queued.
func (cs *conns) finish(c *conn, o accesslog.Outcome) {
	source := c.source()
	for i := range c.relay.Sides {
		cs.remove(int(c.relay.Sides[i].FD))
	}
	cs.ended(c, source, o)
}

// abort ends a connection with a RST to both sides.
func (cs *conns) abort(c *conn, o accesslog.Outcome) {
	source := c.source()
	for i := range c.relay.Sides {
		if fd := int(c.relay.Sides[i].FD); fd >= 0 {
			sys.ResetOnClose(fd)
			cs.remove(fd)
		}
	}
	cs.ended(c, source, o)
}

// cutAll resets every connection.
func (cs *conns) cutAll() {
	for fd := range cs.slots {
		if c := cs.slots[fd].conn; c != nil {
			cs.abort(c, accesslog.Outcome{How: accesslog.Drained})
		}
	}
}

// ended logs a connection and gives back all that it had.
func (cs *conns) ended(c *conn, source netip.AddrPort, o accesslog.Outcome) {
	for i := range c.relay.Sides {
		c.relay.Sides[i].FD = -1
	}
	c.relay.Release(cs.buffers, cs.now)
	cs.dialer.End(&c.attempt, c.pair())
	r, peer := cs.record(c, accesslog.Ended, source), c.client
	if c.headed {
		peer = cs.headers.leave(c)
	}
	if r.Outcome = o; silent(c, &r) {
		r.How = accesslog.Silent
	}
	cs.accesslog.Add(r)
	cs.suspect(o)
	if c.halved {
		cs.stats.HalfClosed.Add(-1)
	}
	cs.stats.End(r.How)
	cs.freeConn(c)
	cs.places.leave(peer.Addr())
}

// record is what the log says of a connection now.
func (cs *conns) record(c *conn, e accesslog.Event, source netip.AddrPort) accesslog.Record {
	via := netip.AddrPort{}
	if c.headed {
		via = cs.headers.peers[c]
	}
	return accesslog.Record{
		Via:   via,
		Event: e, Client: c.client, Dst: c.dst, Source: source,
		Up: c.relay.Moved(relay.Client), Down: c.relay.Moved(relay.Application),
		Took: time.Since(cs.start) - c.began,
	}
}

// greeting is the most, in bytes, that an application sends to a client that says
// nothing, before the two have anything to do with each other.
const greeting = 4 << 10

// silent reports whether the client ended the connection without having sent a byte, as
// probes do.
func silent(c *conn, r *accesslog.Record) bool {
	return (r.How == accesslog.Closed || r.How == accesslog.ClientReset) &&
		r.Up == 0 && r.Down <= greeting && !c.served && !c.dialing
}
