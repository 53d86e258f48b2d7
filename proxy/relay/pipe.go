package relay

import (
	"io"
	"time"

	"github.com/tproxy-cni/tproxy-cni/proxy/sys"
)

const (
	pipeSize    = 1 << 20   // asked for: with the default of 64 KiB splice costs 3.5 times the CPU
	minPipeSize = 64 << 10  // below it copying is faster
	maxSplice   = 512 << 10 // at once: for larger ones the kernel grows the receive buffer to megabytes
	minSplice   = 16 << 10  // a stream with less is no longer bulk
	pipeIdle    = time.Second
)

// MaxPipes bounds the pipes of all loops, lent and idle: 128 descriptors.
const MaxPipes = 64

// pipe is a buffer that moves pages with splice(2), never touching the bytes.
type pipe struct {
	r, w  int // non-blocking descriptors
	size  int
	n     int       // bytes inside
	since time.Time // when it became idle
}

func (p *pipe) queued() int { return p.n }

// emptied is never certain: a pipe is full of pages before it is full of bytes.
func (p *pipe) emptied(int) bool { return false }

func (p *pipe) fill(fd int) (int, error) {
	// The pipe is empty, so EAGAIN is about the socket.
	n, err := sys.Splice(fd, p.w, min(p.size, maxSplice))
	if err != nil {
		return 0, err
	}
	p.n = n
	return n, nil
}

func (p *pipe) drain(fd int) (int, error) {
	n, err := sys.Splice(p.r, fd, p.n)
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
	sys.Close(p.r)
	sys.Close(p.w)
}

// pipes lends out pipes. Their memory is limited per user id on the whole node
// (fs.pipe-user-pages-soft), which all sidecars share: idle pipes go back to
// the kernel after a second, and there may be none to lend.
type pipes struct {
	most  int     // lent and idle
	idle  []*pipe // longest idle first
	lent  int
	retry time.Time // the kernel refused a pipe: do not ask again before
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

// sweep closes the pipes that have been idle for pipeIdle. It returns when the next
// is due, zero if none is left.
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

// newPipe makes a pipe as large as the kernel allows, nil if that is too small or
// descriptors are short: a buffer does instead.
func newPipe() *pipe {
	r, w, size, err := sys.Pipe(pipeSize, minPipeSize)
	if err != nil {
		return nil
	}
	return &pipe{r: r, w: w, size: size}
}
