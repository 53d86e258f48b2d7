package main

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/source"
	"github.com/tproxy-cni/tproxy-cni/proxy/accesslog"
	"github.com/tproxy-cni/tproxy-cni/proxy/stats"
	"github.com/tproxy-cni/tproxy-cni/proxy/sys"
)

const (
	// acceptsPerRound bounds how long a storm of connections delays the running
	// ones.
	acceptsPerRound = 8

	queueEmpty   = 5 * time.Millisecond // no client for so long
	lastCallTime = time.Second          // the limit, if clients keep coming
)

// acceptor is a listener, in the first loop's hands.
type acceptor struct {
	*shared
	poll  sys.Epoll
	fd    int // -1: closed
	serve func(fd int, client netip.AddrPort)
	ended func() // the listener is closed

	stats    *stats.Loop
	watched  bool
	retry    time.Time // accept failed: not again before
	shortage backoff   // of descriptors, memory or places

	// Clients of sources that have many connections, while few places are left.
	// They wait here so as not to block those behind them in the queue. All acceptors
	// together have at most half as many as reserved places, and each has taken one.
	waiting []arrival
	look    bool    // at waiting, although no connection has ended
	scarce  backoff // of places

	// Last call: clients that the kernel has told they are connected are served
	// before the listener is closed, which would reset them.
	quiet, end time.Time
}

// arrival is an accepted connection.
type arrival struct {
	fd     int
	client netip.AddrPort
}

// accept takes clients from the listener's queue, which epoll reports not to be
// empty. When the limit is reached they wait there and are not refused.
func (a *acceptor) accept(now time.Time) {
	for range acceptsPerRound {
		if !a.places.take() {
			a.look = true // take has asked for a wake-up again, perhaps after a place was freed
			if a.shortage.fresh(now) {
				a.shortage.warn(fmt.Errorf("%w: %d", errFull, a.places.limit))
			}
			a.stats.Pause(stats.PauseLimit)
			a.watch(false)
			return
		}
		fd, client, err := sys.Accept(a.fd)
		switch err {
		case nil:
			if !client.IsValid() {
				client = fromFront // a unix socket's
			}
			a.shortage.succeeded()
			a.stats.Accepted.Add(1)
			if !a.end.IsZero() {
				a.quiet = now.Add(queueEmpty)
			}
			if held, ok := a.places.enter(client.Addr()); ok {
				a.serve(fd, client)
			} else {
				a.park(now, arrival{fd, client}, held)
			}
			continue
		case unix.ECONNABORTED: // the client has gone
			a.places.release()
			continue
		}
		a.places.release()
		if err != sys.ErrAgain && err != unix.EINTR {
			// Descriptors or memory are short.
			a.retry = now.Add(a.shortage.failed(now, err))
			a.stats.Pause(stats.PauseOf(err))
			a.watch(false)
		}
		return
	}
}

// park makes a client wait whose source has many connections. If many wait already
// it is refused.
func (a *acceptor) park(now time.Time, c arrival, held int) {
	if a.scarce.fresh(now) {
		who := "the --accept-proxy socket"
		if c.client != fromFront {
			who = source.Of(c.client.Addr()).String()
		}
		a.scarce.warn(fmt.Errorf("%s has %d of the %d connections that the limit of open files allows; "+
			"the last %d are for others", who, held, a.places.limit, a.places.reserved))
	}
	if a.places.waiting >= a.places.reserved/2 {
		sys.ResetOnClose(c.fd)
		sys.Close(c.fd)
		a.places.release()
		a.stats.End(accesslog.Crowded)
		return
	}
	a.waiting = append(a.waiting, c)
	a.places.waiting++
	a.look = true
}

// letIn serves the waiting clients for which there are places, in turn, and all of
// them while draining. It skips those whose source still has too many.
func (a *acceptor) letIn() {
	a.places.full.Store(true) // before the look: a connection that ends after it wakes the loop
	a.look = false
	stay := a.waiting[:0]
	for _, c := range a.waiting {
		a.places.waiting--
		_, ok := a.places.enter(c.client.Addr())
		if !ok && a.draining.Load() {
			_, ok = a.places.sources.enter(c.client.Addr(), true, 0)
		}
		if !ok {
			a.places.waiting++
			stay = append(stay, c)
			continue
		}
		a.serve(c.fd, c.client)
	}
	if a.waiting = stay; len(stay) == 0 {
		a.waiting = nil
	}
}

// tick does what is due for the listener and returns when to come again, zero if
// nothing is due. freed says that places may have become free since the last tick.
func (a *acceptor) tick(now time.Time, freed bool) (due time.Time) {
	if a.fd < 0 {
		return due
	}
	draining := a.draining.Load()
	if len(a.waiting) > 0 && (a.look || draining || freed) {
		a.letIn()
	}
	if draining {
		if a.end.IsZero() {
			a.quiet, a.end = now.Add(queueEmpty), now.Add(lastCallTime)
		}
		if a.cut.Load() || !now.Before(a.quiet) || !now.Before(a.end) {
			a.close()
			return due
		}
		due = a.quiet
	}
	if !a.watched {
		if now.Before(a.retry) {
			return sooner(due, a.retry)
		}
		if a.places.free() {
			if a.watch(true); !a.watched {
				a.retry = now.Add(minBackoff) // no event would come
				return sooner(due, a.retry)
			}
		}
	}
	return due
}

// watch asks for events of the listener, or for none. If epoll refuses, a.watched stays.
func (a *acceptor) watch(on bool) {
	if on == a.watched {
		return
	}
	events := uint32(0)
	if on {
		events = unix.EPOLLIN
	}
	if err := a.poll.Modify(a.fd, events, 0); err == nil {
		a.watched = on
	}
}

func (a *acceptor) close() {
	sys.Close(a.fd)
	a.fd = -1
	a.ended()
}
