package main

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// acceptsPerRound bounds how long a storm of connections keeps the
	// running ones waiting.
	acceptsPerRound = 8

	queueEmpty   = 5 * time.Millisecond // nobody came for so long
	lastCallTime = time.Second          // but some may come for ever
)

// acceptor is the listener in the first loop's hands.
type acceptor struct {
	fd       int
	watched  bool
	turn     int       // whose the last connection became
	retry    time.Time // accept failed: not again before
	shortage shortage

	// The last call: the clients that the kernel has told they are connected
	// are served before the listener is closed, which resets them.
	quiet, end time.Time
}

// accept takes clients from the listener's queue, which epoll says has some.
// Where there may be no more they wait in it, they are not refused.
func (l *loop) accept() {
	a := l.acceptor
	for range acceptsPerRound {
		if !l.p.take() {
			a.shortage.report(l.now, fmt.Errorf("%w: %d", errFull, l.p.limit))
			l.watchListener(false)
			return
		}
		fd, from, err := accept(a.fd)
		switch err {
		case nil:
			a.shortage.succeeded()
			if !a.end.IsZero() {
				a.quiet = l.now.Add(queueEmpty)
			}
			a.turn = (a.turn + 1) % len(l.p.loops)
			if to := l.p.loops[a.turn]; to != l {
				to.hand(fd, from)
			} else {
				l.begin(fd, from)
			}
			continue
		case unix.ECONNABORTED: // the client has gone
			l.p.release()
			continue
		}
		l.p.release()
		if err != errAgain && err != unix.EINTR {
			// Descriptors or memory are short.
			a.retry = l.now.Add(a.shortage.failed(l.now, err))
			l.watchListener(false)
		}
		return
	}
}

// tickAcceptor does what is due for the listener, and tells when to come again.
func (l *loop) tickAcceptor() (due time.Time) {
	a := l.acceptor
	if a.fd < 0 {
		return due
	}
	if l.p.draining.Load() {
		if a.end.IsZero() {
			a.quiet, a.end = l.now.Add(queueEmpty), l.now.Add(lastCallTime)
		}
		if l.p.cut.Load() || !l.now.Before(a.quiet) || !l.now.Before(a.end) {
			l.closeListener()
			return due
		}
		due = a.quiet
	}
	if !a.watched {
		if l.now.Before(a.retry) {
			return sooner(due, a.retry)
		}
		if l.p.room() {
			l.watchListener(true)
		}
	}
	return due
}

func (l *loop) watchListener(on bool) {
	a := l.acceptor
	if on == a.watched {
		return
	}
	events := uint32(0)
	if on {
		events = unix.EPOLLIN
	}
	if err := l.control(unix.EPOLL_CTL_MOD, a.fd, events, 0); err == nil {
		a.watched = on
	}
}

func (l *loop) closeListener() {
	closeFD(l.acceptor.fd)
	l.acceptor.fd = -1
	l.p.closed.Store(true)
	for _, other := range l.p.loops {
		other.wake()
	}
}
