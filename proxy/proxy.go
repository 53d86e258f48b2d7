package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/drain"
)

// proxy accepts intercepted connections and relays each to the application.
type proxy struct {
	log  *slog.Logger
	mode string
	addr netip.AddrPort // of the listener

	// destination tells where the client of an accepted connection wanted
	// to go.
	destination func(fd int, client netip.AddrPort) (netip.AddrPort, error)

	dialer  *dialer
	journal *journal
	status  status
	checked chan struct{} // closed when status is first known

	loops []*loop
	limit int64        // of connections
	conns atomic.Int64 // in all loops
	full  atomic.Bool  // the first loop waits for room

	draining, cut, closed atomic.Bool // accept no more; reset all; the listener is closed
}

var errFull = errors.New("there are as many connections as the limit of open files allows")

// newProxy makes a proxy of n loops that has files descriptors at most. The
// listener is its own then.
func newProxy(log *slog.Logger, mode string, ln int, files uint64, n int) (p *proxy, err error) {
	p = &proxy{
		log:         log,
		mode:        mode,
		destination: redirectedFrom,
		journal:     newJournal(log),
		status:      status{err: errChecking},
		checked:     make(chan struct{}),
		limit:       int64(connsFor(files)),
	}
	if mode == contract.ModeTProxy {
		p.destination = intercepted
	}
	if p.addr, err = localOf(ln); err != nil {
		return nil, os.NewSyscallError("getsockname", err)
	}
	p.dialer = &dialer{mode: mode, port: p.addr.Port(), own: &addrs{list: net.InterfaceAddrs}}
	defer func() {
		if err != nil {
			p.closeLoops()
		}
	}()
	for range n {
		l, err := newLoop(p, maxPipes/n)
		if err != nil {
			return nil, err
		}
		p.loops = append(p.loops, l)
	}
	first := p.loops[0]
	first.acceptor = &acceptor{fd: ln, shortage: shortage{warn: func(err error) {
		// A loop waits for nobody, not for the reader of the log either.
		go p.log.Warn("cannot accept connections; clients wait until it works again", "err", err)
	}}}
	return p, first.control(unix.EPOLL_CTL_ADD, ln, 0, 0)
}

func (p *proxy) closeLoops() {
	for _, l := range p.loops {
		l.close()
	}
}

// serve accepts until ctx ends, then gives the running connections the time of
// timeout to finish and resets the others; so it does at once when kill ends.
func (p *proxy) serve(ctx, kill context.Context, timeout time.Duration) {
	select {
	case <-p.checked: // clients wait in the listener's queue
	case <-ctx.Done():
	}
	var loops sync.WaitGroup
	for _, l := range p.loops {
		loops.Go(l.run)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		loops.Wait()
	}()
	// Not before the last word of tell and release: a descriptor may be another's
	// as soon as it is closed.
	defer func() {
		<-done
		p.closeLoops()
		p.journal.close()
	}()

	<-ctx.Done()
	p.status.set(errDraining)
	p.tell(&p.draining)
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-done:
		return
	case <-timer.C:
		drain.Say(func() {
			p.log.Warn("the time to drain is over: resetting the connections that are left", "drain", timeout)
		})
	case <-kill.Done():
	}
	p.tell(&p.cut)
}

// tell lets every loop know.
func (p *proxy) tell(state *atomic.Bool) {
	state.Store(true)
	for _, l := range p.loops {
		l.wake()
	}
}

// take counts one more connection, if there may be one.
func (p *proxy) take() bool {
	if p.conns.Add(1) <= p.limit {
		return true
	}
	p.conns.Add(-1)
	p.full.Store(true)
	return false
}

// release undoes take.
func (p *proxy) release() {
	p.conns.Add(-1)
	if p.full.Load() && p.full.CompareAndSwap(true, false) {
		p.loops[0].wake()
	}
}

// room tells whether take may succeed.
func (p *proxy) room() bool { return p.conns.Load() < p.limit }
