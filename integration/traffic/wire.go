// Package traffic is the application and the clients of the benchmark and of the soak. Both are single
// loops over epoll that cost as little as possible, since they share the machine
// with what is measured. Bytes, ends of streams and peer addresses are checked; see
// the types reply and checker.
package traffic

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// messageSize is the size of a request and of a reply.
const messageSize = 64

// What a client's first message asks for.
const (
	kindExchange = 'R' // a reply for this message and for each that follows
	kindUp       = 'U' // count the blocks that follow, reply at their end
	kindDown     = 'D' // a reply, then blocks until the client ends its direction
	kindEcho     = 'E' // a reply, then the bytes that follow, and their end
	kindHTTP     = 'G' // "GET …": for wrk

	kindBye        = 'B' // a reply and the server's end
	kindFirst      = 'F' // a reply and the server's FIN, and only then the client's bytes, and their end
	kindUpCut      = 'u' // blocks, broken off by the client's reset
	kindDownCut    = 'd' // a reply, then blocks until the client's reset
	kindRefuse     = 'X' // the server's reset
	kindReplyBreak = 'Y' // a reply, then the server's reset
	kindUpBreak    = 'v' // blocks, broken off by the server's reset
	kindDownBreak  = 'w' // a reply, then blocks, broken off by the server's reset
)

// message is a request or a reply. The padding after the fields is always the same,
// so that whole messages can be compared.
type message [messageSize]byte

func newMessage(kind byte, nonce uint64) message {
	var m message
	copy(m[:], pattern)
	m[0] = kind
	binary.LittleEndian.PutUint64(m[1:], nonce)
	return m
}

// reply is what the server answers: the kind and nonce of the request, the
// peer's address and port as the server's socket has it, and how many bytes it
// has received. A server that received wrong bytes answers with kind 0.
func newReply(request *message, peer netip.AddrPort, received int64) message {
	m := *request
	addr := peer.Addr().As16()
	copy(m[9:25], addr[:])
	binary.LittleEndian.PutUint16(m[25:], peer.Port())
	binary.LittleEndian.PutUint64(m[27:], uint64(received))
	return m
}

func (m *message) peer() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(m[9:25])).Unmap(), binary.LittleEndian.Uint16(m[25:]))
}

// checkReply compares a reply with the expected one. Where the variant does not
// promise the client's port, any port is right.
func checkReply(got *message, request *message, local netip.AddrPort, exactPort bool, received int64) error {
	seen := got.peer()
	if seen.Addr() != local.Addr() || exactPort && seen.Port() != local.Port() {
		return fmt.Errorf("the application saw the peer %s, but the client is %s", seen, local)
	}
	if want := newReply(request, seen, received); *got != want {
		return fmt.Errorf("wrong reply to %s: got % x, want % x", local, got[:35], want[:35])
	}
	return nil
}

// blockSize is the unit of bulk streams: a header of 8 bytes, which is the
// block's number and in its lowest bit whether it is the last, then pattern.
const (
	blockSize  = 256 << 10
	headerSize = 8
)

// pattern never repeats within a block, so that lost, repeated or reordered bytes
// show.
var pattern = func() []byte {
	b := make([]byte, blockSize)
	x := uint64(0x9e3779b97f4a7c15)
	for i := 0; i < len(b); i += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(b[i:], x)
	}
	return b
}()

// sender makes the blocks of one stream.
type sender struct {
	off  int64 // bytes sent
	end  int64 // where the stream ends; 0: not decided
	head [headerSize]byte
}

// stop makes the next block that has not been started the last one.
func (s *sender) stop() {
	if s.end == 0 {
		s.end = (s.off+blockSize-1)/blockSize*blockSize + blockSize
	}
}

func (s *sender) done() bool { return s.end > 0 && s.off == s.end }

// next returns the bytes up to the end of the block, in two parts.
func (s *sender) next() (head, body []byte) {
	pos := s.off % blockSize
	if pos >= headerSize {
		return nil, pattern[pos:]
	}
	h := uint64(s.off/blockSize) << 1
	if s.end > 0 && s.off-pos == s.end-blockSize {
		h |= 1
	}
	binary.LittleEndian.PutUint64(s.head[:], h)
	return s.head[pos:], pattern[headerSize:]
}

// push writes what comes next, not beyond the limit.
func (s *sender) push(fd int, limit int64) error {
	room := limit - s.off
	if room <= 0 {
		return nil
	}
	head, body := s.next()
	head = head[:min(int64(len(head)), room)]
	body = body[:min(int64(len(body)), room-int64(len(head)))]
	n, err := write(fd, head, body)
	s.off += int64(n)
	return err
}

// checker checks the blocks of one stream: each header, and the first and last bytes
// of each read, where a relay's losses or repeats show. (The echo compares every
// byte.)
type checker struct {
	off  int64 // bytes received
	head [headerSize]byte
	last bool // the block that off is in, or at the end of, is the last
}

const sampleSize = 64

func (c *checker) take(b []byte) error {
	for len(b) > 0 {
		pos := int(c.off % blockSize)
		if c.last && pos == 0 {
			return fmt.Errorf("%d bytes after the last block", len(b))
		}
		n := min(len(b), blockSize-pos)
		if err := c.piece(b[:n], pos); err != nil {
			return fmt.Errorf("byte %d of the stream: %w", c.off, err)
		}
		c.off += int64(n)
		b = b[n:]
	}
	return nil
}

// piece checks bytes from pos on that lie within one block.
func (c *checker) piece(b []byte, pos int) error {
	if pos < headerSize {
		n := copy(c.head[pos:], b)
		if pos+n < headerSize {
			return nil
		}
		h := binary.LittleEndian.Uint64(c.head[:])
		if want := uint64(c.off / blockSize); h>>1 != want {
			return fmt.Errorf("block %d where %d belongs", h>>1, want)
		}
		c.last = h&1 == 1
		b, pos = b[n:], pos+n
	}
	n := min(len(b), sampleSize)
	end := pos + len(b)
	if string(b[:n]) != string(pattern[pos:pos+n]) || string(b[len(b)-n:]) != string(pattern[end-n:end]) {
		return fmt.Errorf("wrong bytes")
	}
	return nil
}

// complete reports whether the stream may end here.
func (c *checker) complete() error {
	if !c.last || c.off%blockSize != 0 {
		return fmt.Errorf("stream ended early, at byte %d", c.off)
	}
	return nil
}
