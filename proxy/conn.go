package main

import (
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// conn is one intercepted connection. It belongs to one loop.
type conn struct {
	id      uint32 // tells a stale event from one for us
	port    uint16 // that we dialled from, in the client's name
	dialing bool
	yielded bool          // it is in loop.yielded
	began   time.Duration // of the loop's time

	client, dst netip.AddrPort

	dial   attempt
	sides  [2]side
	halves [2]half
}

// source is from where the application sees the connection come, zero while there
// is none.
func (c *conn) source() (source netip.AddrPort) {
	switch fd := c.sides[application].fd; {
	case fd < 0:
	case c.dial.plain:
		source, _ = localOf(int(fd))
	default:
		source = netip.AddrPortFrom(c.client.Addr(), c.port)
	}
	return source
}

func (c *conn) pair() pair { return pair{c.client.Addr(), c.dst} }

// begin serves a client. Whatever keeps it from being connected to its
// destination becomes a RST: the client learns at once that there is nothing
// here.
func (l *loop) begin(fd int, from netip.AddrPort) {
	c := l.newConn()
	c.began, c.client = time.Since(l.start), from
	c.sides[client].fd, c.sides[application].fd = int32(fd), -1
	l.place(c, client)
	l.p.journal.accepted(fd, from)
	var err error
	if c.dst, err = l.p.destination(fd, from); err != nil {
		l.abort(c, ending{endRejected, err}) // ENOENT: conntrack knows of no redirection
		return
	}
	if err := l.p.dialer.check(c.dst); err != nil {
		l.abort(c, ending{endRejected, err})
		return
	}
	// Without a prepared pod the dial might hang: where the uid is not the one
	// that may spoof, the rules drop its SYN.
	if err := l.p.status.get(); err != nil && err != errDraining {
		l.abort(c, ending{endUnprepared, err})
		return
	}
	c.dialing = true
	l.dial(c, nil)
}

// dial goes on after an attempt that failed with err, nil before the first,
// until one is under way.
func (l *loop) dial(c *conn, err error) {
	app := &c.sides[application]
	for {
		source, nerr := l.p.dialer.next(&c.dial, c.pair(), c.client, err)
		if nerr != nil {
			l.abort(c, ending{dialEnd(nerr), nerr})
			return
		}
		var fd int
		if fd, err = dialSocket(source, c.dst); err != nil {
			continue
		}
		c.port, app.fd = source.Port(), int32(fd)
		l.place(c, application)
		var done bool
		switch done, err = connected(fd, c.dst); {
		case err != nil:
			l.dropApplication(c)
		case done:
			// Over lo it is so at once, as a rule.
			l.established(c)
			return
		default:
			if l.watch(c, application, unix.EPOLLOUT) && l.watch(c, client, 0) {
				l.dials = append(l.dials, dialUnderWay{ref{c, c.id}, fd, l.now.Add(dialTimeout)})
			}
			return
		}
	}
}

// dialed continues a dial that an event speaks of.
func (l *loop) dialed(c *conn) {
	if s := &c.sides[client]; s.failed {
		l.abort(c, ending{"client reset", socketError(int(s.fd))})
		return
	}
	switch done, err := connected(int(c.sides[application].fd), c.dst); {
	case err != nil:
		l.dropApplication(c)
		l.dial(c, err)
	case done:
		l.established(c)
	}
}

// dropApplication closes the socket of an attempt that failed.
func (l *loop) dropApplication(c *conn) {
	l.remove(int(c.sides[application].fd))
	c.sides[application] = side{fd: -1}
}

// established begins to relay. The client's request is mostly there already: to
// read now spares it an event.
func (l *loop) established(c *conn) {
	c.dialing = false
	c.sides[client].readable = true
	c.sides[client].writable, c.sides[application].writable = true, true
	id := c.id
	l.relay(c)
	if c.id == id { // it has not ended
		_ = l.watch(c, client, 0) && l.watch(c, application, 0)
	}
}

// relay moves what can be moved and sees to what ended.
func (l *loop) relay(c *conn) {
	first := client
	if c.sides[application].failed {
		first = application // its last words come before its reset
	}
	yielded := false
	for _, i := range [2]int{first, 1 - first} {
		h, src, dst := &c.halves[i], &c.sides[i], &c.sides[1-i]
		if h.over {
			continue
		}
		out, err := h.pump(src, dst, &l.carriers, l.now)
		if err == nil && out == drained {
			h.over = true
			if c.halves[1-i].over {
				l.finish(c)
				return
			}
			err = l.passEnd(dst)
		}
		if err != nil {
			l.breakOff(c, err)
			return
		}
		yielded = yielded || out == yields
		if h.carrier != nil && !dst.writable && !l.watch(c, 1-i, unix.EPOLLOUT) {
			return
		}
	}
	if yielded {
		l.yield(c)
		return
	}
	for i := range c.sides {
		// The error of a side that nothing is read from or written to.
		if s := &c.sides[i]; s.failed {
			s.failed = false
			if err := socketError(int(s.fd)); err != nil {
				l.breakOff(c, &broken{s, err})
				return
			}
		}
	}
}

func (l *loop) passEnd(dst *side) error {
	if err := shutdownWrite(int(dst.fd)); err != nil {
		return &broken{dst, os.NewSyscallError("shutdown", err)}
	}
	return nil
}

// breakOff ends a connection one side of which is broken. What that side sent
// before goes to the other as far as there is room.
func (l *loop) breakOff(c *conn, err error) {
	b := err.(*broken)
	i := client
	if b.side == &c.sides[application] {
		i = application
	}
	for h := &c.halves[i]; !h.over; {
		if out, err := h.pump(&c.sides[i], &c.sides[1-i], &l.carriers, l.now); err != nil || out != yields {
			break
		}
	}
	l.abort(c, ending{sideNames[i] + " " + b.how(), b.err})
}

// finish ends a connection in order: close sends the FINs, the kernel delivers
// what is queued.
func (l *loop) finish(c *conn) {
	source := c.source()
	for i := range c.sides {
		l.remove(int(c.sides[i].fd))
	}
	l.ended(c, source, ending{how: endClosed})
}

// abort ends a connection with a RST to both sides.
func (l *loop) abort(c *conn, e ending) {
	source := c.source()
	for i := range c.sides {
		if fd := int(c.sides[i].fd); fd >= 0 {
			resetOnClose(fd)
			l.remove(fd)
		}
	}
	l.ended(c, source, e)
}

// ended gives back all that the connection had and logs it.
func (l *loop) ended(c *conn, source netip.AddrPort, e ending) {
	for i := range c.sides {
		c.sides[i].fd = -1
		c.halves[i].release(&l.carriers, l.now)
	}
	c.dial.end(&l.p.dialer.ports, c.pair())
	l.p.journal.add(record{
		client: c.client, dst: c.dst, source: source, ending: e,
		up: c.halves[client].total, down: c.halves[application].total,
		took: time.Since(l.start) - c.began,
	})
	l.freeConn(c)
}
