package main

import (
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/proxy/sys"
)

// loop serves its connections, one event after the other, on one thread.
type loop struct {
	*shared
	poll      sys.Epoll
	wakeup    int // an eventfd: another thread wants the loop to look at shared and inbox
	conns     *conns
	acceptors []*acceptor // the first loop's

	mu    sync.Mutex
	inbox []arrival // connections that the first loop hands over

	walk  atomic.Pointer[walk] // under way, for a census
	ended chan struct{}        // closed when the loop is over
}

const (
	eventsPerRound = 128
	roundsPerBreak = 64 // after which other goroutines may run
)

// newLoop makes one of n loops.
func newLoop(s *shared, n int) (*loop, error) {
	poll, err := sys.NewEpoll()
	if err != nil {
		return nil, err
	}
	l := &loop{shared: s, poll: poll, wakeup: -1, conns: newConns(s, poll, n), ended: make(chan struct{})}
	if l.wakeup, err = sys.NewEventfd(); err == nil {
		err = poll.Add(l.wakeup, unix.EPOLLIN|unix.EPOLLET, 0)
	}
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *loop) close() {
	l.poll.Close()
	if l.wakeup >= 0 {
		sys.Close(l.wakeup)
	}
	l.conns.buffers.Close()
}

// listen gives the loop a listener, not watched yet.
func (l *loop) listen(a *acceptor) error {
	l.acceptors, a.poll, a.stats = append(l.acceptors, a), l.poll, &l.conns.stats
	return l.poll.Add(a.fd, 0, 0)
}

// run serves until the listener is closed and this loop's connections have ended.
func (l *loop) run() {
	defer close(l.ended)
	events := make([]sys.Event, eventsPerRound)
	l.conns.now = time.Now()
	for round := 1; ; round++ {
		l.still.pass()
		due := l.tick()
		if l.over() {
			return
		}
		n, err := l.poll.Wait(events, l.timeout(due))
		if err != nil {
			panic(err) // EBADF, EFAULT or EINVAL: a bug
		}
		l.conns.now = time.Now()
		for i := range n {
			l.event(&events[i])
		}
		l.conns.resume()
		if round%roundsPerBreak == 0 || l.accesslog.Busy() {
			runtime.Gosched()
		}
	}
}

func (l *loop) event(ev *sys.Event) {
	fd := int(ev.Fd)
	for _, a := range l.acceptors {
		if fd == a.fd {
			a.accept(l.conns.now)
			return
		}
	}
	if fd != l.wakeup {
		l.conns.event(ev)
	}
}

// tick does what is due and returns when to come again, zero if nothing is due.
func (l *loop) tick() (due time.Time) {
	for _, a := range l.arrivals() {
		l.conns.begin(a.fd, a.client)
	}
	if l.cut.Load() {
		l.conns.cutAll()
	}
	due = l.conns.tick()
	if w := l.walk.Load(); w != nil {
		if w.step(l.conns) {
			l.walk.CompareAndSwap(w, nil)
		} else {
			due = sooner(due, l.conns.now)
		}
	}
	freed := !l.places.full.Load()
	for _, a := range l.acceptors {
		due = sooner(due, a.tick(l.conns.now, freed))
	}
	return sooner(due, l.conns.giveMemoryBack(l.conns.now))
}

// over reports whether nothing is left and nothing will come.
func (l *loop) over() bool {
	if l.conns.count > 0 || !l.closed.Load() {
		return false
	}
	l.mu.Lock() // once closed is set, no other loop hands anything over
	defer l.mu.Unlock()
	return len(l.inbox) == 0
}

// timeout is epoll_wait's, in milliseconds.
func (l *loop) timeout(due time.Time) int {
	switch {
	case len(l.conns.yielded) > 0:
		return 0
	case due.IsZero():
		return -1
	}
	return int(max(0, time.Until(due)+time.Millisecond-1) / time.Millisecond)
}

// hand gives a connection to the loop, from the first one's thread.
func (l *loop) hand(fd int, client netip.AddrPort) {
	l.mu.Lock()
	l.inbox = append(l.inbox, arrival{fd, client})
	l.mu.Unlock()
	l.wake()
}

func (l *loop) arrivals() []arrival {
	l.mu.Lock()
	defer l.mu.Unlock()
	in := l.inbox
	l.inbox = nil
	return in
}

// wake makes the loop look at shared and at its inbox, from any thread.
func (l *loop) wake() { sys.Wake(l.wakeup) }
