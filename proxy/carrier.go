package main

import (
	"io"
	"time"
)

// carrier takes bytes out of one socket and puts them into another. It is held
// only while bytes are under way: an idle connection has none.
type carrier interface {
	// fill takes what fits from the socket, when the carrier is empty. It
	// never waits; 0 is the end of the stream.
	fill(fd int) (int, error)
	// drain puts some of it into the socket. It never waits.
	drain(fd int) (int, error)
	// queued is how many bytes are in the carrier.
	queued() int
	// short tells that a fill of n bytes has emptied the socket.
	short(n int) bool
}

const (
	smallBuffer = 64 << 10  // for requests and answers
	bulkBuffer  = 256 << 10 // near splice's rate, where there is no pipe
	maxBulk     = 64        // bulk buffers in use: slow readers must not cost that much each

	keptSmall, keptBulk = 16, 2 // buffers that are kept for the next
)

// carriers lends out the carriers of one loop. Most come back before the next is
// lent: a buffer and a pipe do for all connections whose receivers keep up.
type carriers struct {
	pipes pipes

	small, bulk []*buffer // idle
	bulks       int       // bulk buffers lent out
}

// get lends a carrier: for a stream that has just moved a full carrier a pipe
// if there is one, else a large buffer, and for all others a small buffer.
func (cs *carriers) get(bulk bool, now time.Time) carrier {
	if bulk {
		if p := cs.pipes.get(now); p != nil {
			return p
		}
		if cs.bulks < maxBulk {
			cs.bulks++
			return lend(&cs.bulk, bulkBuffer)
		}
	}
	return lend(&cs.small, smallBuffer)
}

// put takes a carrier back, with or without bytes left in it.
func (cs *carriers) put(c carrier, now time.Time) {
	switch c := c.(type) {
	case *pipe:
		cs.pipes.put(c, now)
	case *buffer:
		c.r, c.w = 0, 0
		if len(c.b) == bulkBuffer {
			cs.bulks--
			keep(&cs.bulk, c, keptBulk)
		} else {
			keep(&cs.small, c, keptSmall)
		}
	}
}

func lend(idle *[]*buffer, size int) *buffer {
	n := len(*idle)
	if n == 0 {
		return &buffer{b: make([]byte, size)}
	}
	b := (*idle)[n-1]
	*idle = (*idle)[:n-1]
	return b
}

func keep(idle *[]*buffer, b *buffer, most int) {
	if len(*idle) < most {
		*idle = append(*idle, b)
	}
}

// buffer is a carrier that copies: b[r:w] is under way.
type buffer struct {
	b    []byte
	r, w int
}

func (b *buffer) queued() int      { return b.w - b.r }
func (b *buffer) short(n int) bool { return n < len(b.b) }

func (b *buffer) fill(fd int) (int, error) {
	n, err := read(fd, b.b)
	if err != nil {
		return 0, err
	}
	b.r, b.w = 0, n
	return n, nil
}

func (b *buffer) drain(fd int) (int, error) {
	n, err := write(fd, b.b[b.r:b.w])
	if err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, io.ErrShortWrite
	}
	b.r += n
	return n, nil
}
