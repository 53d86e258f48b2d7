package main

import (
	"io"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	pipeSize    = 1 << 20  // what is asked for: with the default of 64 KiB splice costs 3.5 times the CPU
	minPipeSize = 64 << 10 // less is slower than copying
	maxPipes    = 64       // lent and idle: 128 descriptors
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

func (p *pipe) fill(fd int) (int, error) {
	// The pipe is empty, so EAGAIN speaks of the socket alone.
	n, err := unix.Splice(fd, nil, p.w, nil, p.size, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	if err != nil {
		return 0, err
	}
	p.n = int(n)
	return p.n, nil
}

func (p *pipe) drain(fd int) (int, error) {
	n, err := unix.Splice(p.r, nil, fd, nil, p.n, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	if err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, io.ErrShortWrite
	}
	p.n -= int(n)
	return int(n), nil
}

func (p *pipe) close() {
	_ = unix.Close(p.r)
	_ = unix.Close(p.w)
}

// pipes lends out pipes. Their memory is limited per user id on the whole node
// (fs.pipe-user-pages-soft), which all sidecars share: idle pipes go back to
// the kernel after a second, and where no good one is to be had get says so.
type pipes struct {
	mu    sync.Mutex
	idle  []*pipe // longest idle first
	lent  int
	retry time.Time // the kernel had no good pipe: do not ask again before
	sweep *time.Timer
}

// get lends an empty pipe, or nil.
func (ps *pipes) get() *pipe {
	if ps == nil {
		return nil
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if n := len(ps.idle); n > 0 {
		p := ps.idle[n-1]
		ps.idle = ps.idle[:n-1]
		ps.lent++
		return p
	}
	if ps.lent >= maxPipes || time.Now().Before(ps.retry) {
		return nil
	}
	p := newPipe()
	if p == nil {
		ps.retry = time.Now().Add(pipeIdle)
		return nil
	}
	ps.lent++
	return p
}

// put takes a pipe back. One with bytes left in it, whose connection broke, is
// closed.
func (ps *pipes) put(p *pipe) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.lent--
	if p.n > 0 {
		p.close()
		return
	}
	p.since = time.Now()
	ps.idle = append(ps.idle, p)
	if ps.sweep == nil {
		ps.sweep = time.AfterFunc(pipeIdle, ps.closeIdle)
	}
}

// closeIdle closes the pipes that nobody needed for pipeIdle, and comes again
// while there are others.
func (ps *pipes) closeIdle() {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for len(ps.idle) > 0 && time.Since(ps.idle[0].since) >= pipeIdle {
		ps.idle[0].close()
		ps.idle = ps.idle[1:]
	}
	ps.sweep = nil
	if len(ps.idle) > 0 {
		ps.sweep = time.AfterFunc(pipeIdle, ps.closeIdle)
	}
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
