package relay

import (
	"golang.org/x/sys/unix"
)

// Handed is a relay between two steps, as it goes to another program that has the same
// descriptors.
type Handed struct {
	Sides  [2]Side       `json:"sides"`
	Halves [2]HandedHalf `json:"halves"`
}

// HandedHalf is one direction. What it holds goes along: as bytes, or in its pipe.
type HandedHalf struct {
	Total int64       `json:"total,omitempty"`
	Bulk  bool        `json:"bulk,omitempty"`
	Ended bool        `json:"ended,omitempty"`
	Over  bool        `json:"over,omitempty"`
	Bytes []byte      `json:"bytes,omitempty"`
	Pipe  *HandedPipe `json:"pipe,omitempty"`
}

// HandedPipe is a pipe with Bytes in it.
type HandedPipe struct {
	R     int32 `json:"r"`
	W     int32 `json:"w"`
	Bytes int   `json:"bytes"`
}

// Descriptors are all that it has.
func (h *Handed) Descriptors() (all []*int32) {
	for i := range h.Sides {
		if h.Sides[i].FD >= 0 {
			all = append(all, &h.Sides[i].FD)
		}
		if p := h.Halves[i].Pipe; p != nil {
			all = append(all, &p.R, &p.W)
		}
	}
	return all
}

// HandOver describes the relay, whose bytes it shares. A half whose bytes are still in
// the kernel's own buffers has none.
func (r *Relay) HandOver() (h Handed) {
	h.Sides = r.Sides
	for i := range r.halves {
		from, to := &r.halves[i], &h.Halves[i]
		*to = HandedHalf{Total: from.total, Bulk: from.bulk, Ended: from.ended, Over: from.over}
		switch b := from.buf.(type) {
		case *pipe:
			to.Pipe = &HandedPipe{int32(b.r), int32(b.w), b.n}
		case *heapBuffer:
			to.Bytes = b.b[b.r:b.w]
		}
	}
	return h
}

// TakeOver makes r the relay that h describes. What it holds counts as lent, also above
// the limits.
func (r *Relay) TakeOver(h Handed, bufs *Buffers) {
	r.Sides = h.Sides
	for i := range h.Halves {
		from, to := &h.Halves[i], &r.halves[i]
		*to = half{total: from.Total, bulk: from.Bulk, ended: from.Ended, over: from.Over}
		switch {
		case from.Pipe != nil:
			to.buf = bufs.pipes.takeOver(from.Pipe)
		case len(from.Bytes) > 0:
			to.buf = bufs.takeOver(from.Bytes)
		}
	}
}

// takeOver lends a buffer with these bytes. Of another version's there may be more than
// fit in a large one.
func (bs *Buffers) takeOver(bytes []byte) buffer {
	var b *heapBuffer
	if len(bytes) > smallBuffer {
		bs.bulks++
		if b = lend(&bs.bulk, bulkBuffer); len(b.b) < len(bytes) {
			b.b = make([]byte, len(bytes))
		}
	} else {
		bs.smalls++
		b = lend(&bs.small, smallBuffer)
	}
	b.r, b.w = 0, copy(b.b, bytes)
	return b
}

func (ps *pipes) takeOver(h *HandedPipe) *pipe {
	ps.lent++
	size, err := unix.FcntlInt(uintptr(h.W), unix.F_GETPIPE_SZ, 0)
	if err != nil {
		size = minPipeSize
	}
	return &pipe{r: int(h.R), w: int(h.W), size: size, n: h.Bytes}
}
