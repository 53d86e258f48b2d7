package relay

import (
	"os"
	"time"

	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
	"github.com/tproxy-cni/tproxy-cni/proxy/sys"
)

// Turn bounds the bytes that one direction moves before other connections get
// theirs: a bulk stream must not make requests and answers wait.
const Turn = 256 << 10

// half is one direction. The package comment draws its states.
type half struct {
	buf   buffer // the bytes that dst has no room for; nil: none
	total int64  // bytes written to dst
	bulk  bool   // the last fill was large
	ended bool   // src's end of stream has been read
	over  bool   // and, after all bytes, passed on
}

// stop is why pump stopped.
type stop int

const (
	waiting stop = iota // for an event
	yielded             // its turn is used up
	drained             // the end of the stream is next to pass on
)

// pump moves the bytes of half i until it must stop.
func (r *Relay) pump(i int, bufs *Buffers, now time.Time) (stop, *Broken) {
	h, src, dst := &r.halves[i], &r.Sides[i], &r.Sides[1-i]
	for moved := 0; ; {
		switch {
		case h.buf != nil && !dst.Writable:
			return waiting, nil
		case h.buf != nil:
			n, err := h.drain(dst, bufs, now)
			bufs.Moved[i].Add(int64(n))
			if lost, ok := err.(*lostSource); ok {
				return waiting, &Broken{i, os.NewSyscallError("read", lost.error)}
			}
			if err != nil {
				return waiting, &Broken{1 - i, os.NewSyscallError("write", err)}
			}
		case h.ended:
			return drained, nil
		case !src.Readable, !dst.Writable:
			return waiting, nil
		case moved >= Turn:
			return yielded, nil
		default:
			n, err := h.fill(src, bufs, now)
			if err != nil {
				return waiting, &Broken{i, os.NewSyscallError("read", err)}
			}
			moved += n
		}
	}
}

// fill takes bytes from src into a buffer that it borrows.
func (h *half) fill(src *Side, bufs *Buffers, now time.Time) (int, error) {
	b := bufs.get(h.bulk, now)
	n, err := b.fill(int(src.FD))
	if n > 0 {
		h.buf = b
		h.bulk = n >= smallBuffer || h.bulk && n >= minSplice
		// What comes later comes with an event. A FIN that is here already
		// does not.
		src.Readable = src.Ended || !b.emptied(n)
		if h.bulk && src.Tunes {
			src.Tunes = false
			sock.LimitReceive(int(src.FD))
		}
		return n, nil
	}
	bufs.put(b, now)
	switch err {
	case nil:
		h.ended = true
	case sys.ErrAgain:
		src.Readable, err = false, nil
	}
	return 0, err
}

// drain writes the buffer's bytes to dst, as far as there is room.
func (h *half) drain(dst *Side, bufs *Buffers, now time.Time) (int, error) {
	n, err := h.buf.drain(int(dst.FD))
	h.total += int64(n)
	if h.buf.queued() == 0 {
		h.release(bufs, now)
	}
	if err == sys.ErrAgain {
		dst.Writable, err = false, nil
	}
	return n, err
}

// release gives the buffer back, with whatever is in it.
func (h *half) release(bufs *Buffers, now time.Time) {
	if h.buf != nil {
		bufs.put(h.buf, now)
		h.buf = nil
	}
}
