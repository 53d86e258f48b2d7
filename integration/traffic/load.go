package traffic

import (
	"time"

	"golang.org/x/sys/unix"
)

// upload sends blocks on all connections until the end; the server reports how many
// bytes arrived.
func (c *client) upload() error {
	c.startClock()
	for range c.Conns {
		if _, err := c.dial(); err != nil {
			return err
		}
	}
	for len(c.conns) > 0 {
		if err := c.step(c.limit, c.uploadOne); err != nil {
			return err
		}
	}
	c.stopClock()
	return nil
}

func (c *client) uploadOne(n *conn, _ uint32) error {
	switch {
	case !n.up:
		return c.start(n, kindUp, unix.EPOLLOUT)
	case n.send.done():
		done, err := c.answer(n, n.send.off)
		if done {
			c.result.Bytes += n.send.off
			c.close(n)
		}
		return err
	}
	head, body := n.send.next()
	k, err := write(n.fd, head, body)
	if err != nil && err != unix.EAGAIN {
		return err
	}
	n.send.off += int64(k)
	if time.Now().After(c.end) {
		n.send.stop()
	}
	if n.send.done() {
		if err := c.loop.change(n.fd, unix.EPOLLIN); err != nil {
			return err
		}
		return endWrites(n.fd)
	}
	return nil
}

// download receives blocks on all connections, half-closes each at the end and reads
// to the end of the stream.
func (c *client) download() error {
	c.startClock()
	for range c.Conns {
		if _, err := c.dial(); err != nil {
			return err
		}
	}
	scratch := make([]byte, blockSize)
	next := c.end
	for len(c.conns) > 0 {
		err := c.step(next, func(n *conn, _ uint32) error { return c.downloadOne(n, scratch) })
		if err != nil {
			return err
		}
		if next == c.end && time.Now().After(c.end) {
			next = c.limit
			for _, n := range c.conns {
				if err := endWrites(n.fd); err != nil {
					return err
				}
			}
		}
	}
	c.stopClock()
	return nil
}

func (c *client) downloadOne(n *conn, scratch []byte) error {
	switch {
	case !n.up:
		return c.start(n, kindDown, unix.EPOLLIN)
	case n.got < messageSize:
		_, err := c.answer(n, 0)
		return err
	}
	k, err := read(n.fd, scratch)
	switch {
	case err == unix.EAGAIN:
		return nil
	case err != nil:
		return err
	case k > 0:
		c.result.Bytes += int64(k)
		return n.check.take(scratch[:k])
	}
	c.close(n)
	return n.check.complete()
}

// schedule is when requests are sent.
type schedule struct {
	gap time.Duration // between two; 0: closed loop, as soon as a connection is free
	due time.Time     // of the next, in an open loop
	end time.Time     // no request is due then or later
}

// take returns the time of the next request, if that has come.
func (s *schedule) take(now time.Time) (time.Time, bool) {
	if s.gap == 0 {
		return now, now.Before(s.end)
	}
	due := s.due
	if s.over(now) || due.After(now) {
		return due, false
	}
	s.due = due.Add(s.gap)
	return due, true
}

// over reports whether take has no more requests.
func (s *schedule) over(now time.Time) bool {
	if s.gap == 0 {
		return !now.Before(s.end)
	}
	return !s.due.Before(s.end)
}

// exchange sends request after request on each connection. In an open loop a request
// whose time has come takes any free connection; waiting for one counts as latency.
func (c *client) exchange() error {
	if err := c.open(); err != nil {
		return err
	}
	c.latencies = make([]time.Duration, 0, int(c.Duration.Seconds()*200_000)+1000)
	free := make([]*conn, 0, c.Conns)
	for _, n := range c.conns {
		free = append(free, n)
	}
	c.startClock()
	s := schedule{due: c.began, end: c.end}
	if c.Rate > 0 {
		s.gap = time.Duration(float64(time.Second) / c.Rate)
	}
	for {
		now := time.Now()
		for len(free) > 0 {
			due, ok := s.take(now)
			if !ok {
				break
			}
			n := free[0]
			free = free[1:]
			n.due = due
			if err := c.ask(n, kindExchange); err != nil {
				return err
			}
		}
		if s.over(now) && len(free) == c.Conns {
			break
		}
		next := c.limit
		if s.gap > 0 && len(free) > 0 && !s.over(now) {
			next = s.due
		}
		err := c.step(next, func(n *conn, _ uint32) error {
			done, err := c.answer(n, 0)
			if done {
				c.latencies = append(c.latencies, time.Since(n.due))
				free = append(free, n)
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

// idle holds the connections, then does one exchange on each: none may have been
// lost.
func (c *client) idle(hold func() error) error {
	if err := c.open(); err != nil {
		return err
	}
	if err := hold(); err != nil {
		return err
	}
	c.limit = time.Now().Add(c.Grace)
	for _, n := range c.conns {
		if err := c.ask(n, kindExchange); err != nil {
			return err
		}
	}
	for len(c.conns) > 0 {
		err := c.step(c.limit, func(n *conn, _ uint32) error {
			done, err := c.answer(n, 0)
			if done {
				c.result.Count++
				c.close(n)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
