package traffic

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Serve is the application: it serves a port over both families until the process
// ends, or until a client that has already gone was wrong. ready is called when it
// listens.
func Serve(port int, ready func()) error {
	listener, err := listen(port)
	if err != nil {
		return err
	}
	l, err := newLoop()
	if err != nil {
		return err
	}
	if err := l.add(listener, unix.EPOLLIN); err != nil {
		return err
	}
	ready()
	s := &server{loop: l, conns: map[int]*served{}, scratch: make([]byte, blockSize)}
	for {
		events, err := l.wait(-1)
		if err != nil {
			return err
		}
		for _, e := range events {
			if fd := int(e.Fd); fd == listener {
				err = s.accept(fd)
			} else if c := s.conns[fd]; c != nil {
				err = s.handle(c, e.Events)
			}
			if err != nil {
				return err
			}
		}
	}
}

type server struct {
	loop    *loop
	conns   map[int]*served
	scratch []byte
}

// served is one connection; kind decides which fields are used.
type served struct {
	fd   int
	peer netip.AddrPort
	kind byte // 0: the first message has not come
	msg  message
	got  int // of msg

	check checker // of uploads
	wrong error   // kindUp: what check found
	send  sender  // of downloads
	held  []byte  // kindEcho: read, but not yet written
	rest  rest    // kindFirst
}

// batch is how many connections are accepted before running ones get their turn.
const batch = 64

func (s *server) accept(listener int) error {
	for range batch {
		fd, peer, err := accept(listener)
		switch {
		case err == unix.EAGAIN, errors.Is(err, unix.ECONNABORTED):
			return nil
		case err != nil:
			return err
		}
		// Accepted sockets inherit TCP_NODELAY.
		s.conns[fd] = &served{fd: fd, peer: peer}
		if err := s.loop.add(fd, unix.EPOLLIN); err != nil {
			return err
		}
	}
	return nil
}

// handle serves an event and closes the connection at its end.
func (s *server) handle(c *served, events uint32) error {
	err := s.serve(c, events)
	if err == nil {
		return nil
	}
	delete(s.conns, c.fd)
	closeFD(c.fd)
	if f := (fault{}); errors.As(err, &f) {
		return fmt.Errorf("client %s, request %q: %w", c.peer, c.kind, f.error)
	}
	return nil
}

// serve handles an event; any error, io.EOF included, ends the connection.
func (s *server) serve(c *served, events uint32) error {
	var err error
	switch c.kind {
	case kindUp:
		err = s.receive(c)
	case kindDown:
		err = s.download(c, events)
	case kindEcho:
		err = s.echo(c, events)
	case kindHTTP:
		err = s.http(c)
	case kindFirst:
		err = s.afterTheEnd(c)
	case kindUpCut:
		err = s.cutUpload(c)
	case kindDownCut:
		err = s.cutDownload(c, events)
	case kindUpBreak:
		err = s.breakUpload(c)
	case kindDownBreak:
		err = s.breakDownload(c)
	default:
		err = s.exchange(c)
	}
	if err == unix.EAGAIN {
		return nil
	}
	return err
}

// exchange reads a message and handles it once it is complete.
func (s *server) exchange(c *served) error {
	n, err := read(c.fd, c.msg[c.got:])
	if err != nil {
		return err
	}
	if n == 0 {
		return io.EOF
	}
	c.got += n
	if c.kind == 0 && c.msg[0] == kindHTTP {
		c.kind = kindHTTP
		return answerHTTP(c.fd, c.msg[:c.got])
	}
	if c.got < messageSize {
		return nil
	}
	c.kind, c.got = c.msg[0], 0
	return s.begin(c)
}

// begin handles a complete message.
func (s *server) begin(c *served) error {
	switch c.kind {
	case kindUp, kindUpCut, kindUpBreak:
		return nil
	case kindRefuse:
		return s.breakOff(c)
	case kindDown, kindDownCut:
		if err := s.loop.change(c.fd, unix.EPOLLIN|unix.EPOLLOUT); err != nil {
			return err
		}
	case kindDownBreak:
		if err := s.loop.change(c.fd, unix.EPOLLOUT); err != nil {
			return err
		}
	case kindExchange, kindEcho, kindBye, kindReplyBreak, kindFirst:
	default:
		return fmt.Errorf("unknown request %q", c.kind)
	}
	reply := newReply(&c.msg, c.peer, 0)
	if err := writeMessage(c.fd, &reply); err != nil {
		return err
	}
	switch c.kind {
	case kindBye:
		return io.EOF
	case kindReplyBreak:
		return s.breakOff(c)
	case kindFirst:
		return endWrites(c.fd)
	}
	return nil
}

// receive reads an upload and answers its end with the number of bytes.
func (s *server) receive(c *served) error {
	n, err := read(c.fd, s.scratch)
	if err != nil {
		return err
	}
	if n > 0 {
		if c.wrong == nil {
			c.wrong = c.check.take(s.scratch[:n])
		}
		return nil
	}
	reply := newReply(&c.msg, c.peer, c.check.off)
	if err := errors.Join(c.wrong, c.check.complete()); err != nil {
		reply[0] = 0
	}
	return errors.Join(writeMessage(c.fd, &reply), io.EOF)
}

// download sends blocks until the client half-closes.
func (s *server) download(c *served, events uint32) error {
	if events&unix.EPOLLIN != 0 && c.send.end == 0 {
		switch n, err := read(c.fd, s.scratch); {
		case err != nil:
			return err
		case n > 0:
			return fmt.Errorf("%d bytes in a download", n)
		}
		c.send.stop()
		return s.loop.change(c.fd, unix.EPOLLOUT)
	}
	head, body := c.send.next()
	n, err := write(c.fd, head, body)
	if err != nil {
		return err
	}
	c.send.off += int64(n)
	if c.send.done() {
		return io.EOF
	}
	return nil
}

// echo buffers the bytes of one read at most, and reads no more until they are sent.
func (s *server) echo(c *served, events uint32) error {
	if len(c.held) == 0 {
		n, err := read(c.fd, s.scratch)
		if err != nil {
			return err
		}
		if n == 0 {
			return io.EOF
		}
		c.held = append(c.held[:0], s.scratch[:n]...)
	}
	n, err := write(c.fd, c.held, nil)
	if err != nil && err != unix.EAGAIN {
		return err
	}
	waited := events&unix.EPOLLOUT != 0
	switch c.held = c.held[n:]; {
	case len(c.held) > 0 && !waited:
		return s.loop.change(c.fd, unix.EPOLLOUT)
	case len(c.held) == 0 && waited:
		return s.loop.change(c.fd, unix.EPOLLIN)
	}
	return nil
}

func (s *server) http(c *served) error {
	n, err := read(c.fd, s.scratch)
	if err != nil {
		return err
	}
	if n == 0 {
		return io.EOF
	}
	return answerHTTP(c.fd, s.scratch[:n])
}

// answerHTTP answers once a request is complete. wrk sends one at a time, which
// arrives in one or two pieces.
func answerHTTP(fd int, read []byte) error {
	if !bytes.HasSuffix(read, []byte("\r\n\r\n")) {
		return nil
	}
	_, err := write(fd, []byte("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"), []byte("ok\n"))
	return err
}
