package main

import (
	"io"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
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
}

const (
	smallBuffer = 64 << 10  // for requests and answers
	bulkBuffer  = 256 << 10 // near splice's rate, where there is no pipe
	maxBulk     = 64        // bulk buffers in use: slow readers must not cost that much each
)

// carriers lends out carriers. The zero value lends buffers only.
type carriers struct {
	pipes *pipes // nil: none

	small sync.Pool // of *buffer
	bulk  sync.Pool
	bulks atomic.Int32 // bulk buffers lent out
}

// get lends a carrier: for a stream that has just moved a full carrier a pipe
// if there is one, else a large buffer, and for all others a small buffer.
func (cs *carriers) get(bulk bool) carrier {
	if bulk {
		if p := cs.pipes.get(); p != nil {
			return p
		}
		if cs.bulks.Add(1) <= maxBulk {
			return lend(&cs.bulk, bulkBuffer)
		}
		cs.bulks.Add(-1)
	}
	return lend(&cs.small, smallBuffer)
}

// put takes a carrier back, with or without bytes left in it.
func (cs *carriers) put(c carrier) {
	switch c := c.(type) {
	case *pipe:
		cs.pipes.put(c)
	case *buffer:
		c.r, c.w = 0, 0
		if len(c.b) == bulkBuffer {
			cs.bulks.Add(-1)
			cs.bulk.Put(c)
		} else {
			cs.small.Put(c)
		}
	}
}

func lend(pool *sync.Pool, size int) *buffer {
	if b, ok := pool.Get().(*buffer); ok {
		return b
	}
	return &buffer{b: make([]byte, size)}
}

// buffer is a carrier that copies: b[r:w] is under way.
type buffer struct {
	b    []byte
	r, w int
}

func (b *buffer) queued() int { return b.w - b.r }

func (b *buffer) fill(fd int) (int, error) {
	n, err := unix.Read(fd, b.b)
	if err != nil {
		return 0, err
	}
	b.r, b.w = 0, n
	return n, nil
}

func (b *buffer) drain(fd int) (int, error) {
	n, err := unix.Write(fd, b.b[b.r:b.w])
	if err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, io.ErrShortWrite
	}
	b.r += n
	return n, nil
}
