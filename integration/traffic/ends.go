package traffic

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// How the short connections of turns end is what client and server agree on here.

// extra are the bytes that follow a request or a reply: as many as the message says.
func extra(m *message) []byte {
	return pattern[:1+binary.LittleEndian.Uint64(m[1:])%4000]
}

// cutAfter is where a stream that is to be broken off is, in bytes.
func cutAfter(m *message) int64 {
	return 1 + int64(binary.LittleEndian.Uint64(m[1:])*4099%(128<<10))
}

// errEarly is a FIN where there was none, or a reset.
var errEarly = errors.New("the stream has a regular end where it was broken off")

func isReset(err error) bool { return errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) }

// rest checks the bytes of a pattern that follow a message, and the end after them.
type rest int // bytes that have come

// take reads; it reports whether all and the end have come.
func (r *rest) take(fd int, want []byte) (bool, error) {
	var buf [4096]byte
	n, err := read(fd, buf[:])
	switch {
	case err == unix.EAGAIN:
		return false, nil
	case err != nil:
		return false, err
	case n == 0 && int(*r) < len(want):
		return false, fmt.Errorf("the end after %d of %d bytes", *r, len(want))
	case n == 0:
		return true, nil
	case int(*r)+n > len(want):
		return false, fmt.Errorf("%d bytes after the last of %d", int(*r)+n-len(want), len(want))
	}
	if string(buf[:n]) != string(want[*r:int(*r)+n]) {
		return false, fmt.Errorf("wrong bytes from byte %d on", *r)
	}
	*r += rest(n)
	return false, nil
}
