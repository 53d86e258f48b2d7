package main

import (
	"io"
	"time"

	"golang.org/x/sys/unix"
)

const (
	pipeSize    = 1 << 20  // what is asked for: with the default of 64 KiB splice costs 3.5 times the CPU
	minPipeSize = 64 << 10 // less is slower than copying
	minSplice   = 16 << 10 // a stream of less is small again
	maxPipes    = 64       // lent and idle in all loops together: 128 descriptors
	pipeIdle    = time.Second
)

// pipe is a carrier that moves pages with splice(2), never touching the bytes.
type pipe struct {
	r, w  int // non-blocking descriptors
	size  int
	n     int       // bytes inside
	since time.Time // when it became idle
}

func (p *pipe) queued() int { return p.n }

// short is never sure: a pipe is full of pages before it is full of bytes.
func (p *pipe) short(int) bool { return false }

func (p *pipe) fill(fd int) (int, error) {
	// The pipe is empty, so EAGAIN speaks of the socket alone.
	n, err := splice(fd, p.w, p.size)
	if err != nil {
		return 0, err
	}
	p.n = n
	return n, nil
}

func (p *pipe) drain(fd int) (int, error) {
	n, err := splice(p.r, fd, p.n)
	if err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, io.ErrShortWrite
	}
	p.n -= n
	return n, nil
}

func (p *pipe) close() {
	closeFD(p.r)
	closeFD(p.w)
}

// pipes lends out pipes. Their memory is limited per user id on the whole node
// (fs.pipe-user-pages-soft), which all sidecars share: idle pipes go back to
// the kernel after a second, and where no good one is to be had get says so.
type pipes struct {
	most  int     // lent and idle
	idle  []*pipe // longest idle first
	lent  int
	retry time.Time // the kernel had no good pipe: do not ask again before
}

// get lends an empty pipe, or nil.
func (ps *pipes) get(now time.Time) *pipe {
	if n := len(ps.idle); n > 0 {
		p := ps.idle[n-1]
		ps.idle = ps.idle[:n-1]
		ps.lent++
		return p
	}
	if ps.lent >= ps.most || now.Before(ps.retry) {
		return nil
	}
	p := newPipe()
	if p == nil {
		ps.retry = now.Add(pipeIdle)
		return nil
	}
	ps.lent++
	return p
}

// put takes a pipe back. One with bytes left in it, whose connection broke, is
// closed.
func (ps *pipes) put(p *pipe, now time.Time) {
	ps.lent--
	if p.n > 0 {
		p.close()
		return
	}
	p.since = now
	ps.idle = append(ps.idle, p)
}

// sweep closes the pipes that nobody needed for pipeIdle and tells when to come
// again, zero if there are none.
func (ps *pipes) sweep(now time.Time) (due time.Time) {
	n := 0
	for n < len(ps.idle) && now.Sub(ps.idle[n].since) >= pipeIdle {
		ps.idle[n].close()
		n++
	}
	ps.idle = append(ps.idle[:0], ps.idle[n:]...)
	if len(ps.idle) == 0 {
		return due
	}
	return ps.idle[0].since.Add(pipeIdle)
}

// newPipe makes a pipe as large as the kernel allows, nil if that is too small.
func newPipe() *pipe {
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return nil // out of descriptors: a buffer does
	}
	p := &pipe{r: fds[0], w: fds[1]}
	// EPERM is the limit of the user id, or fs.pipe-max-size.
	for want := pipeSize; want >= minPipeSize; want /= 2 {
		if n, err := unix.FcntlInt(uintptr(p.w), unix.F_SETPIPE_SZ, want); err == nil {
			p.size = n
			return p
		}
	}
	p.close()
	return nil
}
