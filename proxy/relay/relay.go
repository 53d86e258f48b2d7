package relay

import (
	"os"
	"time"

	"github.com/tproxy-cni/tproxy-cni/proxy/sys"
)

// Relay is a connection's two sides and what is under way between them. It belongs
// to one thread. Its sides are the caller's to open and to close.
type Relay struct {
	Sides  [2]Side
	halves [2]half
}

// Progress is where a Step stopped.
type Progress int

const (
	// Waits: nothing can be moved before the next event.
	Waits Progress = iota
	// Yields: there is more, but it is the others' turn.
	Yields
	// Closed: both streams have been passed on to their end. The last FIN is for
	// the caller's close to send.
	Closed
)

// Step moves what can be moved without waiting and passes on a FIN, until a side
// turns out to be broken.
func (r *Relay) Step(bufs *Buffers, now time.Time) (Progress, *Broken) {
	first := Client
	if r.Sides[Application].Failed {
		first = Application // what it sent comes before its reset
	}
	yields := false
	for _, i := range [2]int{first, 1 - first} {
		if r.halves[i].over {
			continue
		}
		stop, broken := r.pump(i, bufs, now)
		if broken != nil {
			return Waits, broken
		}
		switch stop {
		case yielded:
			yields = true
		case drained:
			r.halves[i].over = true
			if r.halves[1-i].over {
				return Closed, nil
			}
			if err := sys.CloseWrite(int(r.Sides[1-i].FD)); err != nil {
				return Waits, &Broken{1 - i, os.NewSyscallError("shutdown", err)}
			}
		}
	}
	if yields {
		return Yields, nil
	}
	return Waits, r.pendingError()
}

// pendingError is the error of a side that nothing is read from or written to.
func (r *Relay) pendingError() *Broken {
	for i := range r.Sides {
		if s := &r.Sides[i]; s.Failed {
			s.Failed = false
			if err := sys.SocketError(int(s.FD)); err != nil {
				return &Broken{i, err}
			}
		}
	}
	return nil
}

// LastWords moves what a broken side sent before it broke, as far as the other has
// room.
func (r *Relay) LastWords(side int, bufs *Buffers, now time.Time) {
	// No event may have announced it yet.
	r.Sides[side].Readable, r.Sides[side].Ended = true, true
	for !r.halves[side].over {
		if stop, broken := r.pump(side, bufs, now); broken != nil || stop != yielded {
			return
		}
	}
}

// NeedsRoom reports whether a half waits for side i to become writable.
func (r *Relay) NeedsRoom(i int) bool {
	return !r.Sides[i].Writable && !r.halves[1-i].over && (r.halves[1-i].buf != nil || r.Sides[1-i].Readable)
}

// Over reports whether the stream that side i sends has been passed on to its end.
func (r *Relay) Over(i int) bool { return r.halves[i].over }

// Moved is the number of bytes of side i that the other side's socket has taken.
func (r *Relay) Moved(i int) int64 { return r.halves[i].total }

// Release gives back what the halves have borrowed.
func (r *Relay) Release(bufs *Buffers, now time.Time) {
	for i := range r.halves {
		r.halves[i].release(bufs, now)
	}
}
