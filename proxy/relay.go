package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ending is how a connection ended: a word for the log, and why.
type ending struct {
	how string
	err error
}

const (
	endClosed  = "closed"  // both sides have sent their FIN and all bytes are delivered to the kernel
	endDrained = "drained" // cut off when we had to end
)

// resetPoll is how often a half that cannot get rid of its bytes looks whether
// their sender has been reset meanwhile.
const resetPoll = time.Second

// relay is a connection that is under way: two halves, each moving one
// direction's bytes, that end together. What one side does the other side
// sees: bytes, the end of a direction, a reset.
type relay struct {
	client, app leg
	up, down    half // client → app, app → client

	open atomic.Int32 // halves that have not seen their end of stream
	once sync.Once    // guards end
	end  ending
}

// leg is one of the two sockets.
type leg struct {
	name string // for the log
	conn *net.TCPConn
	raw  syscall.RawConn

	// shut says that our FIN is sent, or about to be. Without it a socket
	// that the kernel has given up has been reset.
	shut atomic.Bool
}

func newRelay(cs *carriers, client, app *net.TCPConn) (*relay, error) {
	r := &relay{}
	for _, l := range []struct {
		leg  *leg
		name string
		conn *net.TCPConn
	}{{&r.client, "client", client}, {&r.app, "application", app}} {
		raw, err := l.conn.SyscallConn()
		if err != nil {
			return nil, err
		}
		l.leg.name, l.leg.conn, l.leg.raw = l.name, l.conn, raw
	}
	r.up.init(cs, &r.client, &r.app)
	r.down.init(cs, &r.app, &r.client)
	r.open.Store(2)
	return r, nil
}

// run relays until both directions have ended or something broke. Both sockets
// are closed then, and the halves' totals are final.
func (r *relay) run() ending {
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.carry(&r.up)
	}()
	r.carry(&r.down)
	<-done
	return r.end
}

// carry is the life of one half.
func (r *relay) carry(h *half) {
	err := h.copy()
	if err == nil {
		err = h.dst.finish()
	}
	if err == nil {
		if r.open.Add(-1) == 0 {
			r.close()
			return
		}
		// The other half goes on, and from now on nobody reads src.
		err = h.src.awaitReset()
	}
	var b *broken
	if errors.As(err, &b) {
		r.abort(ending{b.leg.name + " " + b.how(), b.err})
	}
	// Any other error is that of a socket that the other half has closed.
}

// close ends the relay in order: both FINs are sent, the kernel delivers what
// is queued.
func (r *relay) close() {
	r.once.Do(func() {
		r.end = ending{how: endClosed}
		r.client.conn.Close()
		r.app.conn.Close()
	})
}

// abort ends the relay with a RST to both sides. The first end counts.
func (r *relay) abort(e ending) {
	r.once.Do(func() {
		r.end = e
		reset(r.client.conn)
		reset(r.app.conn)
	})
}

// broken is a leg that failed.
type broken struct {
	leg *leg
	err error
}

func (b *broken) Error() string { return fmt.Sprintf("%s: %v", b.leg.name, b.err) }
func (b *broken) Unwrap() error { return b.err }

func (b *broken) how() string {
	switch {
	case errors.Is(b.err, unix.ECONNRESET), errors.Is(b.err, unix.EPIPE), errors.Is(b.err, unix.ENOTCONN):
		return "reset"
	case errors.Is(b.err, unix.ETIMEDOUT), errors.Is(b.err, unix.EHOSTUNREACH), errors.Is(b.err, unix.ENETUNREACH):
		return "timeout" // keepalive or retransmissions went unanswered
	}
	return "error"
}

// finish sends our FIN.
func (l *leg) finish() error {
	l.shut.Store(true)
	if err := l.conn.CloseWrite(); err != nil && !errors.Is(err, net.ErrClosed) {
		return &broken{l, err}
	}
	return nil
}

// awaitReset waits for the leg's reset. The error is net.ErrClosed if the relay
// ends before.
func (l *leg) awaitReset() error {
	var reset error
	err := l.raw.Read(func(fd uintptr) bool {
		reset = l.resetError(int(fd))
		return reset != nil
	})
	if err != nil {
		return err
	}
	return reset
}

// resetError tells whether the leg has been reset or timed out. The kernel
// tells the error once, and the half that reads the leg and the one that writes
// to it may ask; who comes second reads an end of stream that there never was.
func (l *leg) resetError(fd int) error {
	if !tcpClosed(fd) {
		return nil
	}
	err := socketError(fd)
	if err == nil && !l.shut.Load() {
		err = unix.ECONNRESET // it was told to the other half
	}
	if err == nil {
		return nil // both sides have closed the connection
	}
	return &broken{l, err}
}

// half moves the bytes of one direction.
type half struct {
	src, dst *leg
	total    int64 // bytes written to dst; read it when the relay has ended

	carriers *carriers
	carrier  carrier // nil while idle
	bulk     bool    // the last carrier was full
	n        int     // what tryFill got
	err      error   // of tryFill, tryDrain
	blocked  bool    // dst has a write deadline

	fill, drain func(fd uintptr) bool // tryFill, tryDrain: made once
}

func (h *half) init(cs *carriers, src, dst *leg) {
	h.carriers, h.src, h.dst = cs, src, dst
	h.fill, h.drain = h.tryFill, h.tryDrain
}

// copy moves bytes until src ends. The error is a *broken, or net.ErrClosed.
func (h *half) copy() error {
	for {
		if err := h.src.raw.Read(h.fill); err != nil {
			return err
		}
		if h.err != nil {
			return &broken{h.src, os.NewSyscallError("read", h.err)}
		}
		err := h.deliver()
		h.carriers.put(h.carrier)
		h.carrier = nil
		if err != nil {
			return err
		}
		if h.n == 0 {
			return h.src.checkReset()
		}
		h.bulk = h.n >= smallBuffer
	}
}

// tryFill takes bytes from src into a carrier that it borrows. When there are
// none it gives the carrier back before the wait.
func (h *half) tryFill(fd uintptr) bool {
	c := h.carriers.get(h.bulk)
	h.n, h.err = c.fill(int(fd))
	switch h.err {
	case nil:
		h.carrier = c
		return true
	case unix.EAGAIN:
		h.carriers.put(c)
		return false
	}
	h.carriers.put(c)
	return true
}

// deliver writes the carrier's bytes to dst, however long that takes, unless
// src is reset meanwhile: then dst is not made to wait for the news.
func (h *half) deliver() error {
	for h.carrier.queued() > 0 {
		err := h.dst.raw.Write(h.drain)
		if h.blocked {
			h.blocked = false
			_ = h.dst.conn.SetWriteDeadline(time.Time{})
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if err := h.src.checkReset(); err != nil {
				return err
			}
		case err != nil:
			return err
		case h.err != nil:
			return &broken{h.dst, os.NewSyscallError("write", h.err)}
		}
	}
	return nil
}

// tryDrain puts the carrier's bytes into dst, and before a wait for room sets
// the time of the next look at src.
func (h *half) tryDrain(fd uintptr) bool {
	for h.carrier.queued() > 0 {
		n, err := h.carrier.drain(int(fd))
		if err == unix.EAGAIN {
			h.blocked = true
			_ = h.dst.conn.SetWriteDeadline(time.Now().Add(resetPoll))
			return false
		}
		if h.err = err; err != nil {
			return true
		}
		h.total += int64(n)
	}
	return true
}

func (l *leg) checkReset() error {
	var reset error
	if err := l.raw.Control(func(fd uintptr) { reset = l.resetError(int(fd)) }); err != nil {
		return err
	}
	return reset
}
