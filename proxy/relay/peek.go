package relay

import (
	"io"

	"github.com/tproxy-cni/tproxy-cni/proxy/sys"
)

// peekBuffer holds nothing between two calls: it copies bytes without consuming
// them, and consumes what the other socket took. The rest stays in the kernel. It
// costs a system call or two more.
type peekBuffer struct {
	b   []byte
	src int // socket that b was copied from
	n   int // bytes in b
}

func (p *peekBuffer) queued() int      { return p.n }
func (p *peekBuffer) emptied(int) bool { return false } // what stays in the socket has had its event

func (p *peekBuffer) fill(fd int) (int, error) {
	if p.b == nil {
		p.b = make([]byte, smallBuffer)
	}
	n, err := sys.Peek(fd, p.b)
	if err != nil {
		return 0, err
	}
	p.src, p.n = fd, n
	return n, nil
}

func (p *peekBuffer) drain(fd int) (int, error) {
	n, err := sys.Write(fd, p.b[:p.n])
	p.n = 0
	if err != nil {
		return 0, err
	}
	for taken := 0; taken < n; {
		m, err := sys.Discard(p.src, p.b[:n-taken])
		if err == nil && m == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return n, &lostSource{err}
		}
		taken += m
	}
	return n, nil
}

// lostSource is an error of drain that belongs to the socket that was read, not to
// the one drained into.
type lostSource struct{ error }
