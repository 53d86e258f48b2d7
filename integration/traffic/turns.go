package traffic

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// turn is one kind of short connection: what the client says first, what it does at each
// event, and how it ends it.
type turn struct {
	begin  func(*client, *conn) error // once connected; nil: nothing is said
	events uint32                     // what it waits for
	step   func(*client, *conn) (over bool, err error)
	reset  bool // the client ends it by a reset, not by a close
}

// turnsOf are the kinds of load that make one connection after the other, each in its
// turn.
var turnsOf = map[string][]turn{
	Connect: {
		{say(kindExchange), unix.EPOLLIN, answered, false},
	},
	Served: {
		{say(kindBye), unix.EPOLLIN, answeredToTheEnd, false},
	},
	HalfClosed: {
		{sayAll, unix.EPOLLIN, echoed, false},
		{say(kindFirst), unix.EPOLLIN, sayAfterTheEnd, false},
	},
	ClientResets: {
		{nil, unix.EPOLLIN, atOnce, true},
		{say(kindExchange), unix.EPOLLIN, atOnce, true},
		{say(kindExchange), unix.EPOLLIN, answered, true},
		{say(kindUpCut), unix.EPOLLOUT, amidUpload, true},
		{say(kindDownCut), unix.EPOLLIN, amidDownload, true},
	},
	ServerResets: {
		{say(kindRefuse), unix.EPOLLIN, broken, false},
		{say(kindReplyBreak), unix.EPOLLIN, broken, false},
		{say(kindUpBreak), unix.EPOLLOUT, brokenUpload, false},
		{say(kindDownBreak), unix.EPOLLIN, broken, false},
	},
}

// takeTurns makes one connection after the other.
func (c *client) takeTurns(turns []turn) error {
	c.latencies = make([]time.Duration, 0, int(c.Duration.Seconds()*50_000)+1000)
	c.startClock()
	next := 0
	dial := func() error {
		n, err := c.dial()
		if err == nil {
			n.turn = turns[next%len(turns)]
			next++
		}
		return err
	}
	for range c.Conns {
		if err := dial(); err != nil {
			return err
		}
	}
	for len(c.conns) > 0 {
		err := c.step(c.limit, func(n *conn, _ uint32) error {
			over, err := c.take(n)
			if !over || err != nil {
				return err
			}
			now := time.Now()
			c.latencies = append(c.latencies, now.Sub(n.due))
			if n.turn.reset {
				if err := breakOff(n.fd); err != nil {
					return err
				}
			}
			c.close(n)
			if now.Before(c.end) {
				err = dial()
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	c.stopClock()
	c.result.Count = int64(len(c.latencies))
	return nil
}

// take handles an event of a connection.
func (c *client) take(n *conn) (over bool, err error) {
	if !n.up {
		if err := c.established(n, n.turn.events); err != nil {
			return false, err
		}
		if n.turn.begin != nil {
			if err := n.turn.begin(c, n); err != nil {
				return false, err
			}
		}
	}
	return n.turn.step(c, n)
}

func say(kind byte) func(*client, *conn) error {
	return func(c *client, n *conn) error { return c.ask(n, kind) }
}

func atOnce(*client, *conn) (bool, error) { return true, nil }

func answered(c *client, n *conn) (bool, error) { return c.answer(n, 0) }

// answeredToTheEnd takes the reply and the server's FIN.
func answeredToTheEnd(c *client, n *conn) (bool, error) {
	if n.got < messageSize {
		if done, err := c.answer(n, 0); !done || err != nil {
			return false, err
		}
	}
	return ended(n.fd)
}

// ended reports whether the stream has ended; bytes before the end are an error.
func ended(fd int) (bool, error) {
	var b [1]byte
	switch n, err := read(fd, b[:]); {
	case err == unix.EAGAIN:
		return false, nil
	case err != nil:
		return false, err
	case n > 0:
		return false, fmt.Errorf("bytes after the last")
	}
	return true, nil
}

// sayAll sends the request, what is to be echoed, and the client's FIN.
func sayAll(c *client, n *conn) error {
	if err := c.ask(n, kindEcho); err != nil {
		return err
	}
	return writeLast(n.fd, extra(&n.request))
}

// writeLast writes all and the FIN; a socket without room for them is an error.
func writeLast(fd int, b []byte) error {
	switch n, err := write(fd, b, nil); {
	case err != nil:
		return err
	case n < len(b):
		return fmt.Errorf("only %d of %d bytes written", n, len(b))
	}
	return endWrites(fd)
}

// echoed takes the reply, the echo and the server's FIN.
func echoed(c *client, n *conn) (bool, error) {
	if n.got < messageSize {
		if done, err := c.answer(n, 0); !done || err != nil {
			return false, err
		}
	}
	over, err := n.rest.take(n.fd, extra(&n.request))
	if over {
		c.result.Bytes += int64(len(extra(&n.request)))
	}
	return over, err
}

// sayAfterTheEnd takes the reply and the server's FIN, and only then sends the rest.
func sayAfterTheEnd(c *client, n *conn) (bool, error) {
	over, err := answeredToTheEnd(c, n)
	if !over || err != nil {
		return false, err
	}
	rest := extra(&n.request)
	c.result.Bytes += int64(len(rest))
	return true, writeLast(n.fd, rest)
}

func amidUpload(_ *client, n *conn) (bool, error) {
	cut := cutAfter(&n.request)
	err := n.send.push(n.fd, cut)
	if err == unix.EAGAIN {
		err = nil
	}
	return n.send.off >= cut, err
}

func amidDownload(c *client, n *conn) (bool, error) {
	if n.got < messageSize {
		_, err := c.answer(n, 0)
		return false, err
	}
	scratch := c.room()
	switch k, err := read(n.fd, scratch); {
	case err == unix.EAGAIN:
		return false, nil
	case err != nil:
		return false, err
	case k == 0:
		return false, errEarly
	default:
		if err := n.check.take(scratch[:k]); err != nil {
			return false, err
		}
	}
	return n.check.off >= cutAfter(&n.request), nil
}

// brokenUpload sends until the server's reset comes.
func brokenUpload(c *client, n *conn) (bool, error) {
	for {
		switch err := n.send.push(n.fd, n.send.off+blockSize); {
		case err == unix.EAGAIN:
			return false, nil
		case isReset(err):
			return true, nil
		case err != nil:
			return false, err
		}
	}
}

// broken reads until the server's reset comes, which may have overtaken the end of what
// was sent before. What did arrive must be right.
func broken(c *client, n *conn) (bool, error) {
	var err error
	if n.got < messageSize {
		_, err = c.answer(n, 0)
	} else {
		scratch := c.room()
		var k int
		if k, err = read(n.fd, scratch); err == nil && k == 0 {
			err = errEarly
		}
		if err == nil {
			err = n.check.take(scratch[:k])
		}
	}
	switch {
	case isReset(err):
		return true, nil
	case err == unix.EAGAIN:
		return false, nil
	}
	return false, err
}

// room is a buffer for what is read and compared at once.
func (c *client) room() []byte {
	if c.scratch == nil {
		c.scratch = make([]byte, 64<<10)
	}
	return c.scratch
}
