package main

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tproxy-cni/tproxy-cni/internal/adminhttp"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/drain"
	"github.com/tproxy-cni/tproxy-cni/proxy/accesslog"
	"github.com/tproxy-cni/tproxy-cni/proxy/dial"
	"github.com/tproxy-cni/tproxy-cni/proxy/probe"
	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
	"github.com/tproxy-cni/tproxy-cni/proxy/sys"
)

// proxy accepts intercepted connections and relays each to the application.
type proxy struct {
	shared
	log     *slog.Logger
	level   *slog.LevelVar // log's
	started time.Time

	admin     netip.AddrPort // where /status is; for itself to tell
	adminLn   *net.TCPListener
	adminPort *adminhttp.Server
	front     *sock.UnixListener // for other proxies of the pod; nil: none
	ending    <-chan os.Signal   // has the first SIGTERM or SIGINT, which nobody takes out

	pod     probe.Pod
	checked chan struct{} // closed when status is first known

	loops     []*loop // the first has the listeners
	census    census
	documents documents
	turn      int // the loop that got the last connection
	listeners int // that are open; the first loop's
}

// successors are those that may get all connections. A method returns only if they do
// not.
type successors struct {
	signals  <-chan os.Signal // each asks for handOver
	handOver func(ctx context.Context)
	leave    func() // at the end of ctx; nil: nobody
}

// newProxy makes a proxy of n loops with files descriptors at most, which owns the
// listener ln. The error is a *os.SyscallError, such as EMFILE of epoll_create1.
func newProxy(log *slog.Logger, mode string, ln int, files uint64, n int) (*proxy, error) {
	addr, err := sys.LocalAddr(ln)
	if err != nil {
		return nil, os.NewSyscallError("getsockname", err)
	}
	own := dial.NewAddrs()
	p := &proxy{
		log: log, started: time.Now(),
		shared: shared{
			destination:   sock.RedirectedFrom,
			dialer:        dial.New(mode, addr.Port(), own),
			accesslog:     accesslog.New(log),
			status:        status{pod: checking},
			suspects:      make(chan struct{}, 1),
			places:        newPlaces(files),
			limitsReceive: sock.LimitsReceive(),
		},
		pod:     probe.Pod{Mode: mode, Addr: addr, Own: own, Listeners: &probe.OwnListeners{}, Patience: probe.Patience},
		checked: make(chan struct{}),
	}
	if mode == contract.ModeTProxy {
		p.destination = sock.DivertedFrom
	}
	for range n {
		l, err := newLoop(&p.shared, n)
		if err != nil {
			p.closeLoops()
			return nil, err
		}
		p.loops = append(p.loops, l)
	}
	p.places.freed = p.loops[0].wake
	if err := p.listen(ln); err != nil {
		p.closeLoops()
		return nil, err
	}
	return p, nil
}

// listen has the first loop serve a listener, before it runs.
func (p *proxy) listen(fd int) error {
	p.listeners++
	return p.loops[0].listen(&acceptor{
		shared: &p.shared,
		fd:     fd,
		serve:  p.assign,
		ended: func() {
			if p.listeners--; p.listeners == 0 {
				p.setAndWake(&p.closed)
			}
		},
		// A loop never waits, not for the reader of the log either.
		shortage: backoff{warn: func(err error) {
			go p.log.Warn("cannot accept: clients wait in the listener's queue", "err", err)
		}},
		scarce: backoff{warn: func(err error) {
			go p.log.Warn("one source has most of the connections: its further ones wait or are refused", "err", err)
		}},
	})
}

// assign makes an accepted connection the next loop's. It runs on the first one's
// thread.
func (p *proxy) assign(fd int, client netip.AddrPort) {
	p.turn = (p.turn + 1) % len(p.loops)
	if p.turn == 0 {
		p.loops[0].conns.begin(fd, client)
	} else {
		p.loops[p.turn].hand(fd, client)
	}
}

func (p *proxy) closeLoops() {
	for _, l := range p.loops {
		l.close()
	}
}

func (p *proxy) wakeLoops() {
	for _, l := range p.loops {
		l.wake()
	}
}

// setAndWake sets a flag that the loops look at and wakes them.
func (p *proxy) setAndWake(flag *atomic.Bool) {
	flag.Store(true)
	p.wakeLoops()
}

// serve accepts until ctx ends, then gives the running connections timeout to finish
// and resets the rest. It resets them at once when kill ends. It asks next
// first, which returns if this sidecar is to go on.
func (p *proxy) serve(ctx, kill context.Context, timeout time.Duration, next successors) {
	select {
	case <-p.checked: // until then clients wait in the listener's queue
	case <-ctx.Done():
	}
	var loops sync.WaitGroup
	for _, l := range p.loops {
		loops.Go(l.run)
	}
	p.census.set(true)
	done := make(chan struct{})
	go func() {
		defer close(done)
		loops.Wait()
	}()
	// Not before all wake-ups are done: a closed descriptor may be another's at
	// once.
	defer func() {
		<-done
		p.census.set(false)
		p.closeLoops()
		p.accesslog.Close()
	}()

	for ctx.Err() == nil {
		select {
		case <-next.signals:
			next.handOver(ctx)
		case <-ctx.Done():
		}
	}
	if next.leave != nil {
		next.leave()
	}
	p.status.drain()
	p.setAndWake(&p.draining)
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-done:
		return
	case <-timer.C:
		left := p.places.taken.Load()
		drain.LogBounded(func() {
			p.log.Warn("drain timeout: resetting remaining connections", "drain", timeout, "connections", left)
		})
	case <-kill.Done():
	}
	p.setAndWake(&p.cut)
}
