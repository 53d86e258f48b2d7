package relay

import (
	"io"
	"sync/atomic"
	"time"

	"github.com/tproxy-cni/tproxy-cni/proxy/sys"
)

// buffer takes bytes out of one socket and puts them into another. A half holds one
// only while bytes are under way: an idle connection has none. No call waits.
type buffer interface {
	// fill takes what fits from the socket, when the buffer is empty; 0 is the
	// end of the stream.
	fill(fd int) (int, error)
	// drain puts into the socket what it has room for.
	drain(fd int) (int, error)
	// queued is the number of bytes in the buffer.
	queued() int
	// emptied reports whether a fill of n bytes certainly emptied the socket.
	emptied(n int) bool
}

const (
	smallBuffer = 64 << 10  // for requests and answers
	bulkBuffer  = 256 << 10 // near splice's rate, where there is no pipe

	// The buffers lent at once by all loops: slow readers must not cost one
	// each. Readers that keep up need one together.
	maxSmall, maxBulk = 64, 16

	keptSmall, keptBulk = 16, 2 // idle ones kept for reuse
)

// MaxBuffers is how many halves can hold bytes outside of the kernel's own socket
// buffers at once, with up to maxBulk loops: each has one bulk buffer at least.
const MaxBuffers = MaxPipes + maxBulk + maxSmall

// Buffers lends out the buffers of one loop. Most come back before the next is
// lent: one buffer and one pipe do for all connections whose receivers keep up.
type Buffers struct {
	// Moved is the bytes of each side that the other side's socket has taken, of all
	// connections, counted as they move. One loop writes it, and anyone may read.
	Moved [2]atomic.Int64

	pipes pipes

	small, bulk   []*heapBuffer // idle
	smalls, bulks int           // lent
	loops         int           // that share the limits; 0: one
	peek          peekBuffer
}

// NewBuffers makes one of so many loops' buffers; loops is at least 1.
func NewBuffers(loops int) *Buffers {
	return &Buffers{loops: loops, pipes: pipes{most: MaxPipes / loops}}
}

// get lends a buffer: a pipe for a stream that has just filled a buffer, or a large
// buffer where there is no pipe, and a small buffer for all others. Once all are
// lent it lends peek, which is good for one fill and drain.
func (bs *Buffers) get(bulk bool, now time.Time) buffer {
	if bulk {
		if p := bs.pipes.get(now); p != nil {
			return p
		}
		if bs.bulks < bs.share(maxBulk) {
			bs.bulks++
			return lend(&bs.bulk, bulkBuffer)
		}
	}
	if bs.smalls < bs.share(maxSmall) {
		bs.smalls++
		return lend(&bs.small, smallBuffer)
	}
	return &bs.peek
}

// share is this loop's part of a limit.
func (bs *Buffers) share(limit int) int { return max(1, limit/max(1, bs.loops)) }

// put takes a buffer back, with or without bytes left in it.
func (bs *Buffers) put(b buffer, now time.Time) {
	switch b := b.(type) {
	case *pipe:
		bs.pipes.put(b, now)
	case *heapBuffer:
		b.r, b.w = 0, 0
		if len(b.b) >= bulkBuffer {
			bs.bulks--
			keep(&bs.bulk, b, keptBulk)
		} else {
			bs.smalls--
			keep(&bs.small, b, keptSmall)
		}
	}
}

// Sweep closes the pipes that have been idle for a second. It returns when the next
// is due, zero if none is left.
func (bs *Buffers) Sweep(now time.Time) (due time.Time) { return bs.pipes.sweep(now) }

// Close closes all idle pipes.
func (bs *Buffers) Close() { bs.pipes.sweep(time.Now().Add(2 * pipeIdle)) }

func lend(idle *[]*heapBuffer, size int) *heapBuffer {
	n := len(*idle)
	if n == 0 {
		return &heapBuffer{b: make([]byte, size)}
	}
	b := (*idle)[n-1]
	*idle = (*idle)[:n-1]
	return b
}

func keep(idle *[]*heapBuffer, b *heapBuffer, most int) {
	if len(*idle) < most {
		*idle = append(*idle, b)
	}
}

// heapBuffer copies: b[r:w] is under way.
type heapBuffer struct {
	b    []byte
	r, w int
}

func (b *heapBuffer) queued() int        { return b.w - b.r }
func (b *heapBuffer) emptied(n int) bool { return n < len(b.b) }

func (b *heapBuffer) fill(fd int) (int, error) {
	n, err := sys.Read(fd, b.b)
	if err != nil {
		return 0, err
	}
	b.r, b.w = 0, n
	return n, nil
}

func (b *heapBuffer) drain(fd int) (int, error) {
	n, err := sys.Write(fd, b.b[b.r:b.w])
	if err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, io.ErrShortWrite
	}
	b.r += n
	return n, nil
}
