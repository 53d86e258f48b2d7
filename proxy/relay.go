package main

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// turn bounds the bytes that one direction moves before others have theirs: a
// bulk stream must not make requests and answers wait.
const turn = 256 << 10

// The two sides of a connection, and the two halves by the side that they read.
const (
	client = iota
	application
)

var sideNames = [...]string{client: "client", application: "application"}

// side is one of the two sockets. epoll tells of a change once (EPOLLET), so
// what it told is written down here until a system call says otherwise.
type side struct {
	fd       int32
	watched  uint32 // the events that epoll tells of; 0: it does not know the socket yet
	readable bool   // no read has got EAGAIN, nor all there was, since the last event
	writable bool   // no write has got EAGAIN since the last event
	ended    bool   // a FIN or RST has come: for what is left to read there will be no other event
	failed   bool   // the kernel has an error for us
}

// note writes down what epoll told.
func (s *side) note(events uint32) {
	const ends = unix.EPOLLRDHUP | unix.EPOLLHUP | unix.EPOLLERR
	if events&(unix.EPOLLIN|ends) != 0 {
		s.readable = true
	}
	if events&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		s.writable = true
	}
	if events&ends != 0 {
		s.ended = true
	}
	if events&unix.EPOLLERR != 0 {
		s.failed = true
	}
}

// half moves the bytes of one direction. See the package comment for its states.
type half struct {
	carrier carrier // the bytes that dst has no room for; nil: none
	total   int64   // bytes written to dst
	bulk    bool    // the last fill was large
	ended   bool    // src's end of stream has been read
	over    bool    // and, after all bytes, passed on
}

// outcome is why a half stops for now.
type outcome int

const (
	waits   outcome = iota // for an event
	yields                 // it has used up its turn
	drained                // the end of the stream is next to pass on
)

// pump moves what can be moved without waiting. The error is a *broken.
func (h *half) pump(src, dst *side, cs *carriers, now time.Time) (outcome, error) {
	for moved := 0; ; {
		switch {
		case h.carrier != nil && !dst.writable:
			return waits, nil
		case h.carrier != nil:
			if err := h.drain(dst, cs, now); err != nil {
				return waits, &broken{dst, os.NewSyscallError("write", err)}
			}
		case h.ended:
			return drained, nil
		case !src.readable:
			return waits, nil
		case moved >= turn:
			return yields, nil
		default:
			n, err := h.fill(src, cs, now)
			if err != nil {
				return waits, &broken{src, os.NewSyscallError("read", err)}
			}
			moved += n
		}
	}
}

// fill takes bytes from src into a carrier that it borrows.
func (h *half) fill(src *side, cs *carriers, now time.Time) (int, error) {
	c := cs.get(h.bulk, now)
	n, err := c.fill(int(src.fd))
	if n > 0 {
		h.carrier = c
		h.bulk = n >= smallBuffer || h.bulk && n >= minSplice
		// What comes later comes with an event. A FIN that is here already
		// does not.
		src.readable = src.ended || !c.short(n)
		return n, nil
	}
	cs.put(c, now)
	switch err {
	case nil:
		h.ended = true
	case errAgain:
		src.readable, err = false, nil
	}
	return 0, err
}

// drain writes the carrier's bytes to dst, as far as there is room.
func (h *half) drain(dst *side, cs *carriers, now time.Time) error {
	n, err := h.carrier.drain(int(dst.fd))
	h.total += int64(n)
	switch {
	case err == errAgain:
		dst.writable = false
		return nil
	case err == nil && h.carrier.queued() == 0:
		h.release(cs, now)
	}
	return err
}

// release gives the carrier back, whatever is in it.
func (h *half) release(cs *carriers, now time.Time) {
	if h.carrier != nil {
		cs.put(h.carrier, now)
		h.carrier = nil
	}
}

// broken is a side that failed.
type broken struct {
	side *side
	err  error
}

func (b *broken) Error() string { return b.err.Error() }
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
