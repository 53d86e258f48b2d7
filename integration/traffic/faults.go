package traffic

import (
	"io"

	"golang.org/x/sys/unix"
)

// fault is an error of a connection that its client cannot see, as it has already gone:
// it ends the application.
type fault struct{ error }

// afterTheEnd takes what a client sends after the server's FIN.
func (s *server) afterTheEnd(c *served) error {
	over, err := c.rest.take(c.fd, extra(&c.msg))
	switch {
	case err != nil:
		return fault{err}
	case over:
		return io.EOF
	}
	return nil
}

// cutUpload reads a stream that the client breaks off.
func (s *server) cutUpload(c *served) error {
	n, err := read(c.fd, s.scratch)
	switch {
	case isReset(err):
		return io.EOF
	case err != nil:
		return err
	case n == 0:
		return fault{errEarly}
	}
	if err := c.check.take(s.scratch[:n]); err != nil {
		return fault{err}
	}
	return nil
}

// cutDownload sends until the client's reset comes.
func (s *server) cutDownload(c *served, events uint32) error {
	err := c.send.push(c.fd, c.send.off+blockSize)
	if err == unix.EAGAIN && events&unix.EPOLLIN != 0 {
		var b [1]byte
		if n, rerr := read(c.fd, b[:]); rerr == nil && n == 0 {
			return fault{errEarly}
		} else if rerr != nil {
			err = rerr
		}
	}
	if isReset(err) {
		return io.EOF
	}
	return err
}

// breakUpload reads a part of the stream, which it then breaks off.
func (s *server) breakUpload(c *served) error {
	n, err := read(c.fd, s.scratch[:min(len(s.scratch), int(cutAfter(&c.msg)))])
	switch {
	case err != nil:
		return err
	case n == 0:
		return fault{errEarly}
	}
	if err := c.check.take(s.scratch[:n]); err != nil {
		return fault{err}
	}
	if c.check.off < cutAfter(&c.msg) {
		return nil
	}
	return s.breakOff(c)
}

// breakDownload sends a part of the stream, which it then breaks off.
func (s *server) breakDownload(c *served) error {
	cut := cutAfter(&c.msg)
	if err := c.send.push(c.fd, cut); err != nil {
		return err
	}
	if c.send.off < cut {
		return nil
	}
	return s.breakOff(c)
}

// breakOff makes the end of the connection, which the caller brings about, a reset.
func (s *server) breakOff(c *served) error {
	if err := breakOff(c.fd); err != nil {
		return err
	}
	return io.EOF
}
