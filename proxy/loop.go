package main

import (
	"net/netip"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// loop serves its connections, one event after the other, on one thread. An idle
// connection has no goroutine, timer or buffer: two descriptors and a conn.
type loop struct {
	p        *proxy
	ep       int // the epoll instance
	wakeup   int // an eventfd: another thread wants us to look at what it wrote
	acceptor *acceptor

	start    time.Time // from which connections count
	now      time.Time // of this round
	slots    []slot    // by descriptor
	conns    int       // that are ours
	gaveBack memory    // for the last time
	ids      uint32
	free     []*conn

	carriers carriers
	yielded  []ref          // have more to do, after the others
	dials    []dialUnderWay // earliest deadline first

	mu    sync.Mutex
	inbox []arrival // connections that the first loop hands to us
}

// ref is a connection that may have ended meanwhile, and its memory another's.
type ref struct {
	conn *conn
	id   uint32
}

type dialUnderWay struct {
	ref
	fd       int // of this attempt
	deadline time.Time
}

type arrival struct {
	fd   int
	from netip.AddrPort
}

const (
	eventsPerRound = 128
	roundsPerBreak = 64 // after which other goroutines may run
)

func newLoop(p *proxy, pipesEach int) (*loop, error) {
	l := &loop{p: p, wakeup: -1, start: time.Now()}
	l.carriers.pipes.most = pipesEach
	var err error
	if l.ep, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if l.wakeup, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		l.close()
		return nil, os.NewSyscallError("eventfd", err)
	}
	err = l.control(unix.EPOLL_CTL_ADD, l.wakeup, unix.EPOLLIN|unix.EPOLLET, 0)
	if err != nil {
		l.close()
	}
	return l, err
}

func (l *loop) close() {
	closeFD(l.ep)
	if l.wakeup >= 0 {
		closeFD(l.wakeup)
	}
	l.carriers.pipes.sweep(time.Now().Add(2 * pipeIdle))
}

// run serves until the proxy is closed and our connections have ended.
func (l *loop) run() {
	events := make([]unix.EpollEvent, eventsPerRound)
	l.now = time.Now()
	for round := 1; ; round++ {
		due := l.tick()
		if l.over() {
			return
		}
		n, err := unix.EpollWait(l.ep, events, l.timeout(due))
		if err != nil && err != unix.EINTR {
			panic(os.NewSyscallError("epoll_wait", err)) // EBADF, EFAULT, EINVAL: a fault of ours
		}
		l.now = time.Now()
		for i := range max(n, 0) {
			l.event(&events[i])
		}
		l.resume()
		if round%roundsPerBreak == 0 || l.p.journal.busy() {
			runtime.Gosched()
		}
	}
}

func (l *loop) event(ev *unix.EpollEvent) {
	switch fd := int(ev.Fd); {
	case fd == l.wakeup:
	case l.acceptor != nil && fd == l.acceptor.fd:
		l.accept()
	default:
		s := l.slots[fd]
		if s.conn == nil || s.conn.id != uint32(ev.Pad) {
			return // ended by an earlier event of this round
		}
		c := s.conn
		c.sides[s.side].note(ev.Events)
		if c.dialing {
			l.dialed(c)
		} else {
			l.relay(c)
		}
	}
}

// yield lets the others have their turn.
func (l *loop) yield(c *conn) {
	if !c.yielded {
		c.yielded = true
		l.yielded = append(l.yielded, ref{c, c.id})
	}
}

// resume gives the connections that yielded in the round before their next turn.
func (l *loop) resume() {
	n := len(l.yielded)
	for i := range n {
		if r := l.yielded[i]; r.conn.id == r.id {
			r.conn.yielded = false
			l.relay(r.conn)
		}
	}
	l.yielded = append(l.yielded[:0], l.yielded[n:]...)
}

// tick does what is due and tells when to come again; zero: when something
// happens.
func (l *loop) tick() (due time.Time) {
	for _, a := range l.arrivals() {
		l.begin(a.fd, a.from)
	}
	if l.p.cut.Load() {
		l.cutAll()
	}
	for len(l.dials) > 0 {
		d := l.dials[0]
		if live := d.conn.id == d.id && d.conn.dialing && int(d.conn.sides[application].fd) == d.fd; live && l.now.Before(d.deadline) {
			due = d.deadline
			break
		} else if live {
			err := explain(os.NewSyscallError("connect", os.ErrDeadlineExceeded))
			l.abort(d.conn, ending{dialEnd(err), err})
		}
		l.dials = l.dials[1:]
	}
	due = sooner(due, l.carriers.pipes.sweep(l.now))
	if l.acceptor != nil {
		due = sooner(due, l.tickAcceptor())
	}
	return sooner(due, l.giveMemoryBack())
}

// over tells whether nothing is left and nothing will come.
func (l *loop) over() bool {
	if l.conns > 0 || !l.p.closed.Load() {
		return false
	}
	l.mu.Lock() // after closed is set nobody hands us anything
	defer l.mu.Unlock()
	return len(l.inbox) == 0
}

func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// timeout is what epoll_wait takes, in milliseconds.
func (l *loop) timeout(due time.Time) int {
	switch {
	case len(l.yielded) > 0:
		return 0
	case due.IsZero():
		return -1
	}
	return int(max(0, time.Until(due)+time.Millisecond-1) / time.Millisecond)
}

// hand gives a client's connection to the loop, from another's thread.
func (l *loop) hand(fd int, from netip.AddrPort) {
	l.mu.Lock()
	l.inbox = append(l.inbox, arrival{fd, from})
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

// wake makes the loop look at the proxy's state and at its inbox.
func (l *loop) wake() {
	_, _ = unix.Write(l.wakeup, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // a counter in the machine's order: any but 0 does
}

// watch makes epoll tell of a side's ends, of bytes to read and of what more
// asks for. What is so already it tells at once. If it cannot the connection is
// ended.
func (l *loop) watch(c *conn, i int, more uint32) (ok bool) {
	s := &c.sides[i]
	want := s.watched | unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET | more
	if want == s.watched {
		return true
	}
	op := unix.EPOLL_CTL_MOD
	if s.watched == 0 {
		op = unix.EPOLL_CTL_ADD
	}
	s.watched = want
	if err := l.control(op, int(s.fd), want, c.id); err != nil {
		// ENOMEM, ENOSPC (fs.epoll.max_user_watches): we would never hear of it.
		l.abort(c, ending{endExhausted, err})
		return false
	}
	return true
}

func (l *loop) control(op, fd int, events, id uint32) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(fd), Pad: int32(id)}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(l.ep, op, fd, &ev))
}

// cutAll resets every connection.
func (l *loop) cutAll() {
	for fd := range l.slots {
		if c := l.slots[fd].conn; c != nil {
			l.abort(c, ending{how: endDrained})
		}
	}
}
