package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// proxy accepts intercepted connections and relays each to the application.
type proxy struct {
	log *slog.Logger
	ln  *net.TCPListener

	// destination tells where the client of an accepted connection wanted
	// to go.
	destination func(*net.TCPConn) (netip.AddrPort, error)

	dialer   *dialer
	carriers *carriers
	status   status
	checked  chan struct{} // closed when status is first known

	slots chan struct{} // has an element for each connection
	conns sync.WaitGroup
}

// newProxy makes a proxy that has files descriptors at most.
func newProxy(log *slog.Logger, mode string, ln *net.TCPListener, files uint64) *proxy {
	p := &proxy{
		log:         log,
		ln:          ln,
		destination: redirectedFrom,
		dialer:      &dialer{mode: mode, port: plain(ln.Addr()).Port(), own: &addrs{list: net.InterfaceAddrs}},
		carriers:    &carriers{pipes: &pipes{}},
		status:      status{err: errChecking},
		checked:     make(chan struct{}),
		slots:       make(chan struct{}, connsFor(files)),
	}
	if mode == contract.ModeTProxy {
		p.destination = func(c *net.TCPConn) (netip.AddrPort, error) { return localAddr(c), nil }
	}
	return p
}

// serve accepts until ctx ends, then gives the running connections the time of
// drain to finish and resets the others; so it does at once when kill ends.
func (p *proxy) serve(ctx, kill context.Context, drain time.Duration) {
	kill, cut := context.WithCancel(kill)
	defer cut()
	p.accept(ctx, kill)
	p.ln.Close()

	done := make(chan struct{})
	go func() {
		p.conns.Wait()
		close(done)
	}()
	timeout := time.NewTimer(drain)
	defer timeout.Stop()
	select {
	case <-done:
		return
	case <-timeout.C:
		p.log.Warn("the time to drain is over: resetting the connections that are left", "drain", drain)
	case <-kill.Done():
	}
	cut()
	<-done
}

// accept accepts until ctx ends. Errors of accept are shortages (descriptors,
// memory): it waits and tries again.
func (p *proxy) accept(ctx, kill context.Context) {
	woken := make(chan struct{})
	defer context.AfterFunc(ctx, func() {
		p.status.set(errDraining)
		_ = p.ln.SetDeadline(time.Now()) // ends a wait in accept
		close(woken)
	})()
	s := &shortage{log: p.log}
	for p.takeSlot(ctx, s) {
		conn, err := p.ln.AcceptTCP()
		if err == nil {
			s.succeeded()
			p.start(kill, conn)
			continue
		}
		<-p.slots
		if ctx.Err() != nil {
			break
		}
		s.failed(ctx, err)
	}
	<-woken
	p.lastCall(kill)
}

var errFull = errors.New("there are as many connections as the limit of open files allows")

// takeSlot waits until there may be one more connection; false if ctx ends
// before. Clients wait in the listener's queue, they are not refused.
func (p *proxy) takeSlot(ctx context.Context, s *shortage) bool {
	select {
	case p.slots <- struct{}{}:
		return true
	default:
	}
	s.report(fmt.Errorf("%w: %d", errFull, cap(p.slots)))
	select {
	case p.slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

const (
	queueEmpty   = 5 * time.Millisecond // nobody came for so long
	lastCallTime = time.Second          // but some may come for ever
)

// lastCall serves the clients that the kernel has told they are connected and
// that wait in the listener's queue: closing the listener resets them.
func (p *proxy) lastCall(kill context.Context) {
	for end := time.Now().Add(lastCallTime); time.Now().Before(end); {
		select {
		case p.slots <- struct{}{}:
		default:
			return
		}
		_ = p.ln.SetDeadline(time.Now().Add(queueEmpty))
		conn, err := p.ln.AcceptTCP()
		if err != nil {
			<-p.slots
			return
		}
		p.start(kill, conn)
	}
}

// start serves a connection that has a slot.
func (p *proxy) start(kill context.Context, conn *net.TCPConn) {
	p.conns.Go(func() {
		p.handle(kill, conn)
		<-p.slots
	})
}

// record is what the log says of one connection at its end.
type record struct {
	client, dst, source netip.AddrPort
	up, down            int64
	ending
}

// handle is one connection's life.
func (p *proxy) handle(kill context.Context, client *net.TCPConn) {
	began := time.Now()
	rec := record{client: remoteAddr(client)}
	p.log.Debug("accepted", "client", rec.client, "local", localAddr(client))
	p.relay(kill, client, &rec)

	level := slog.LevelInfo
	attrs := []slog.Attr{
		slog.Any("client", rec.client),
		slog.Any("dst", rec.dst),
		slog.Any("source", rec.source),
		slog.Int64("bytes_up", rec.up),
		slog.Int64("bytes_down", rec.down),
		slog.Float64("seconds", float64(time.Since(began).Microseconds())/1e6),
		slog.String("end", rec.how),
	}
	if rec.err != nil {
		attrs = append(attrs, slog.Any("err", rec.err))
	}
	if rec.how == endUnprepared || rec.how == endExhausted {
		level = slog.LevelWarn
	}
	p.log.LogAttrs(context.Background(), level, "connection", attrs...)
}

// relay connects the client to its destination and writes down how it went.
// Whatever keeps it from doing so becomes a RST: the client learns at once
// that there is nothing here.
func (p *proxy) relay(kill context.Context, client *net.TCPConn, rec *record) {
	dst, err := p.destination(client)
	if err != nil {
		rec.ending = ending{endRejected, err} // ENOENT: conntrack knows of no redirection
		reset(client)
		return
	}
	rec.dst = dst
	if err := p.dialer.check(dst); err != nil {
		rec.ending = ending{endRejected, err}
		reset(client)
		return
	}
	// Without a prepared pod the dial might hang: where the uid is not the one
	// that may spoof, the rules drop its SYN.
	select {
	case <-p.checked:
	case <-kill.Done():
	}
	if err := p.status.get(); err != nil && err != errDraining {
		rec.ending = ending{endUnprepared, err}
		reset(client)
		return
	}
	app, done, err := p.dialer.dial(kill, rec.client, dst)
	defer done()
	if err != nil {
		rec.ending = ending{dialEnd(err), err}
		reset(client)
		return
	}
	rec.source = localAddr(app)
	r, err := newRelay(p.carriers, client, app)
	if err != nil {
		rec.ending = ending{endError, err}
		reset(client)
		reset(app)
		return
	}
	defer context.AfterFunc(kill, func() { r.abort(ending{how: endDrained}) })()
	rec.ending = r.run()
	rec.up, rec.down = r.up.total, r.down.total
}

// How connections end that were never relayed.
const (
	endRejected    = "rejected"    // we do not connect to that destination
	endRefused     = "refused"     // the application does not listen, or is full
	endUnreachable = "unreachable" // no answer, or no route
	endUnprepared  = "unprepared"  // the plugin's work is missing
	endExhausted   = "exhausted"   // no descriptor, port or memory left
	endError       = "error"
)

func dialEnd(err error) string {
	is := func(targets ...error) bool {
		for _, t := range targets {
			if errors.Is(err, t) {
				return true
			}
		}
		return false
	}
	switch {
	case is(context.Canceled):
		return endDrained
	case is(errUnprepared):
		return endUnprepared
	case is(unix.ECONNREFUSED, unix.ECONNRESET):
		return endRefused
	case is(context.DeadlineExceeded, unix.ETIMEDOUT, unix.EHOSTUNREACH, unix.ENETUNREACH):
		return endUnreachable
	case is(errNoPort, unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.EADDRINUSE, unix.EADDRNOTAVAIL):
		return endExhausted
	}
	return endError
}
