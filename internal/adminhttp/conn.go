package adminhttp

import (
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// conn is a connection that the door counts.
type conn struct {
	*net.TCPConn
	raw     syscall.RawConn
	door    *door
	address netip.Addr
	source  netip.Prefix
	waits   bool // for its peer; guarded by door.mu
}

// Read is read(2). It tells the door while it waits for the peer.
func (c *conn) Read(p []byte) (n int, err error) {
	over := c.raw.Read(func(fd uintptr) bool {
		n, err = uninterrupted(unix.Read, fd, p)
		return c.done(err)
	})
	switch {
	case over != nil: // the deadline, or the end
		return 0, over
	case err != nil:
		return 0, os.NewSyscallError("read", err)
	case n == 0 && len(p) > 0:
		return 0, io.EOF
	}
	return n, nil
}

// Write is write(2) of all of p, likewise.
func (c *conn) Write(p []byte) (n int, err error) {
	over := c.raw.Write(func(fd uintptr) bool {
		for n < len(p) {
			var part int
			if part, err = uninterrupted(unix.Write, fd, p[n:]); err != nil {
				break
			}
			n += part
		}
		return c.done(err)
	})
	if over != nil {
		return n, over
	}
	return n, os.NewSyscallError("write", err)
}

// done reports whether a non-blocking call has completed.
func (c *conn) done(err error) bool {
	waits := err == unix.EAGAIN
	c.door.wait(c, waits)
	return !waits
}

func uninterrupted(call func(int, []byte) (int, error), fd uintptr, p []byte) (n int, err error) {
	for n, err = call(int(fd), p); err == unix.EINTR; {
		n, err = call(int(fd), p)
	}
	return n, err
}

// reset closes with a RST and leaves nothing in the kernel.
func (c *conn) reset() {
	_ = c.SetLinger(0)
	_ = c.TCPConn.Close()
}

// end closes once the peer has taken everything and closed, too, or runs out of
// time. What it has not taken would stay in the kernel after a close, without a
// descriptor and uncounted, for as long as the peer stays alive.
func (c *conn) end() {
	defer c.door.forget(c)
	_ = c.CloseWrite()
	deadline := time.Now().Add(lingering)
	_ = c.SetDeadline(deadline)
	_, _ = io.Copy(io.Discard, io.LimitReader(c, requestBytes))
	c.door.wait(c, true)
	for c.unacked() > 0 {
		if time.Now().After(deadline) {
			c.reset()
			return
		}
		time.Sleep(lingering / 50)
	}
	_ = c.TCPConn.Close()
}

// unacked is the number of bytes that the peer has not acknowledged, 0 also on a
// closed connection.
func (c *conn) unacked() (n int) {
	_ = c.raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
	return n
}
