package main

import (
	"fmt"
	"time"

	"github.com/tproxy-cni/tproxy-cni/proxy/accesslog"
	"github.com/tproxy-cni/tproxy-cni/proxy/relay"
	"github.com/tproxy-cni/tproxy-cni/proxy/sys"
)

// sweep is what a loop does with connections of a certain age: it logs those that have
// lived for logOpen, and resets those that are half-closed and on which nothing has
// moved for halfClosed. It passes over all connections from time to time, so none
// needs a timer or a place in a list. When there is nothing to look for it does not
// wake the loop.
type sweep struct {
	logOpen, halfClosed time.Duration // 0: never

	due    time.Time     // of the next; zero: nothing to look for
	next   int           // slot of the one under way
	at     time.Duration // when that began, of the loop's time; 0: none is under way
	newest time.Duration // when the last connection began
	told   time.Duration // those that began until then have been logged, if open
}

const (
	// What is due is found late by one such part of the time at most, or by leastSweep.
	sweepPart  = 8
	leastSweep = 50 * time.Millisecond

	slotsPerRound = 1024 // as many take some 20 µs, if there is nothing to do
)

// every is the time from one sweep to the next.
func (s *sweep) every() time.Duration {
	t := max(s.logOpen, s.halfClosed)
	for _, d := range []time.Duration{s.logOpen, s.halfClosed} {
		if d > 0 {
			t = min(t, d)
		}
	}
	return max(t/sweepPart, leastSweep)
}

// sweepOn does the next part of a sweep, if one is due, and returns when to come again,
// zero if there is nothing to look for.
func (cs *conns) sweepOn() (due time.Time) {
	s := &cs.sweep
	if s.at == 0 {
		halved := s.halfClosed > 0 && cs.stats.HalfClosed.Load() > 0
		switch {
		case !halved && (s.logOpen == 0 || s.newest <= s.told):
			s.due = time.Time{}
			return s.due
		case s.due.IsZero():
			s.due = cs.now.Add(s.every())
			return s.due
		case cs.now.Before(s.due):
			return s.due
		}
		s.next, s.at = 0, cs.now.Sub(cs.start)
	}
	end := min(len(cs.slots), s.next+slotsPerRound)
	for _, slot := range cs.slots[min(s.next, end):end] {
		if slot.conn != nil && slot.side == relay.Client {
			cs.age(slot.conn)
		}
	}
	if s.next = end; end < len(cs.slots) {
		return cs.now
	}
	s.told, s.at = max(s.told, s.at-s.logOpen), 0
	s.due = cs.now.Add(s.every())
	return s.due
}

// age does what is due for a connection.
func (cs *conns) age(c *conn) {
	s := &cs.sweep
	if until := s.at - s.logOpen; s.logOpen > 0 && s.told < c.began && c.began <= until {
		cs.accesslog.Add(cs.record(c, accesslog.Open, c.source()))
	}
	if s.halfClosed > 0 && c.halved && s.at-c.halvedAt.duration() >= s.halfClosed && cs.quiet(c) >= s.halfClosed {
		cs.abort(c, accesslog.Outcome{
			How: accesslog.HalfClosed,
			Err: fmt.Errorf("the %s has sent its FIN, and nothing has moved for %v", c.finished(), s.halfClosed),
		})
	}
}

// noteHalfClosed counts a connection of which one side has finished.
func (cs *conns) noteHalfClosed(c *conn) {
	if !c.halved && (c.over(relay.Client) || c.over(relay.Application)) {
		c.halved, c.halvedAt = true, tenthsOf(cs.now.Sub(cs.start))
		cs.stats.HalfClosed.Add(1)
	}
}

// over reports whether a side has sent its FIN, be it passed on already or not.
func (c *conn) over(side int) bool { return c.relay.Over(side) || c.relay.Sides[side].Ended }

// finished is the side that has.
func (c *conn) finished() string {
	if c.over(relay.Client) {
		return "client"
	}
	return "application"
}

// quiet is how long neither socket has sent or received a byte. The kernel's buffers
// may have sent some long after the relay gave them theirs. Of a unix socket it is not
// known: there only the application's counts.
func (cs *conns) quiet(c *conn) time.Duration {
	application := sys.Quiet(int(c.relay.Sides[relay.Application].FD))
	if c.headed && cs.headers.peers[c] == fromFront {
		return application
	}
	return min(sys.Quiet(int(c.relay.Sides[relay.Client].FD)), application)
}
