package main

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/proxy/accesslog"
	"github.com/tproxy-cni/tproxy-cni/proxy/dial"
	"github.com/tproxy-cni/tproxy-cni/proxy/relay"
	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
	"github.com/tproxy-cni/tproxy-cni/proxy/sys"
)

// dialing is one attempt of a connection.
type dialing struct {
	ref
	fd       int32
	deadline time.Time
}

// underWay reports whether the attempt has no answer yet.
func (d dialing) underWay() bool {
	return d.live() && d.conn.dialing && d.conn.relay.Sides[relay.Application].FD == d.fd
}

// begin serves a client. Whatever keeps it from its destination becomes a RST: the
// client learns at once that nothing is here.
func (cs *conns) begin(fd int, from netip.AddrPort) {
	c := cs.newConn()
	c.began, c.client = time.Since(cs.start), from
	cs.sweep.newest = c.began
	c.relay.Sides[relay.Client].FD, c.relay.Sides[relay.Application].FD = int32(fd), -1
	cs.place(c, relay.Client)
	if cs.accesslog.Debug() {
		local, _ := sys.LocalAddr(fd)
		cs.accesslog.Add(accesslog.Record{Event: accesslog.Accepted, Client: from, Dst: local})
	}
	var err error
	if from == fromFront {
		err = cs.fronts.check(fd)
	} else if c.dst, err = cs.destination(fd, from); err == nil { // ENOENT: not redirected
		err = cs.dialer.Check(c.client.Addr(), c.dst)
	}
	if err != nil {
		cs.abort(c, accesslog.Outcome{How: accesslog.Rejected, Err: err})
		return
	}
	// In a pod that is not prepared the dial might hang: where the rules allow
	// another uid, they drop its SYN.
	if fault := cs.status.unprepared(); fault != nil {
		cs.abort(c, accesslog.Outcome{How: accesslog.Unprepared, Err: fault})
		return
	}
	c.dialing = true
	if from == fromFront || cs.trusted.begins(from.Addr(), c.dst.Port()) {
		cs.awaitHeader(c)
		return
	}
	cs.dial(c, nil)
}

// dial continues after an attempt that failed with err, nil before the first, until
// one is under way.
func (cs *conns) dial(c *conn, err error) {
	app := &c.relay.Sides[relay.Application]
	for {
		if err != nil {
			cs.stats.DialFailed(err)
		}
		source, nerr := cs.dialer.Next(&c.attempt, c.pair(), c.client, err)
		if nerr != nil {
			cs.abort(c, dial.Outcome(nerr))
			return
		}
		if err != nil {
			cs.stats.Retries.Add(1)
		}
		var fd int
		if fd, err = cs.dialer.Open(source, c.dst); err != nil {
			continue
		}
		c.port, app.FD = source.Port(), int32(fd)
		cs.place(c, relay.Application)
		var done bool
		switch done, err = sock.Connected(fd, c.dst); {
		case err != nil:
			cs.dropApplication(c)
		case done:
			// Over lo it usually is at once.
			cs.established(c)
			return
		default:
			if cs.watch(c, relay.Application, unix.EPOLLOUT) && cs.watch(c, relay.Client, 0) {
				cs.dials = append(cs.dials, dialing{c.ref(), app.FD, cs.now.Add(dial.Timeout)})
			}
			return
		}
	}
}

// dialed continues a dial after an event.
func (cs *conns) dialed(c *conn) {
	if c.relay.Sides[relay.Application].FD < 0 {
		cs.readHeader(c)
		return
	}
	if s := &c.relay.Sides[relay.Client]; s.Failed {
		cs.abort(c, accesslog.Outcome{How: accesslog.ClientReset, Err: sys.SocketError(int(s.FD))})
		return
	}
	switch done, err := sock.Connected(int(c.relay.Sides[relay.Application].FD), c.dst); {
	case err != nil:
		cs.dropApplication(c)
		cs.dial(c, err)
	case done:
		cs.established(c)
	}
}

// dropApplication closes the socket of an attempt that failed.
func (cs *conns) dropApplication(c *conn) {
	cs.remove(int(c.relay.Sides[relay.Application].FD))
	c.relay.Sides[relay.Application] = relay.Side{FD: -1}
	c.watched[relay.Application] = 0
}

// established starts to relay. The client's request is mostly there already: reading
// now saves an event.
func (cs *conns) established(c *conn) {
	if c.headed && !cs.sourceHolds(c) {
		return
	}
	c.dialing = false
	cs.stats.Established(c.spoof(), time.Since(cs.start)-c.began)
	client, app := &c.relay.Sides[relay.Client], &c.relay.Sides[relay.Application]
	app.Tunes = cs.limitsReceive
	client.Readable, client.Writable, app.Writable = true, true, true
	before := c.ref()
	cs.relay(c)
	if before.live() {
		_ = cs.watch(c, relay.Client, 0) && cs.watch(c, relay.Application, 0)
	}
}

// expireDials ends the dials that got no answer. It returns the deadline of the next,
// zero if there is none.
func (cs *conns) expireDials() (due time.Time) {
	for len(cs.dials) > 0 {
		d := cs.dials[0]
		if d.underWay() {
			if cs.now.Before(d.deadline) {
				return d.deadline
			}
			err := dial.TimedOut()
			cs.stats.DialFailed(err)
			cs.abort(d.conn, dial.Outcome(err))
		}
		cs.dials = cs.dials[1:]
	}
	return due
}
