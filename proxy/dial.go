package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

const (
	// dialTimeout bounds the wait for the application. Over lo the answer
	// takes microseconds, so this is for a full accept queue.
	dialTimeout = 30 * time.Second

	// dialTries bounds the search for a port. A port is refused where
	// something in the pod listens on it on every address.
	dialTries = 64
)

var (
	// errNotOurs refuses to be an open relay or to loop.
	errNotOurs = errors.New("not a connection to intercept")

	// errUnprepared means that the plugin has not been here.
	errUnprepared = errors.New("the kernel refuses the client's address as a source: " +
		"the " + contract.PluginType + " plugin has not prepared this network namespace (ip rule, route `local default`, ip_nonlocal_bind)")
)

// dialer opens the connections to the application.
type dialer struct {
	mode string
	port uint16 // of our own listener
	own  *addrs
	ports
}

// check tells why the proxy must not connect to dst, if so. dst comes from the
// packet: anybody can write anything there.
func (d *dialer) check(dst netip.AddrPort) error {
	switch {
	case dst.Port() == d.port:
		return fmt.Errorf("%w: %s is the proxy itself", errNotOurs, dst)
	case dst.Addr().IsLoopback():
		return fmt.Errorf("%w: nothing redirects %s", errNotOurs, dst)
	}
	switch own, err := d.own.assigned(dst.Addr()); {
	case err != nil:
		return err
	case !own:
		return fmt.Errorf("%w: no interface of this pod has the address of %s", errNotOurs, dst)
	}
	return nil
}

// dial connects to dst, which check has approved, from the client's address.
// The caller calls done when the connection has ended or dial has failed.
func (d *dialer) dial(ctx context.Context, client, dst netip.AddrPort) (conn *net.TCPConn, done func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if !spoofable(client.Addr()) || d.own.known(client.Addr()) {
		conn, err = connect(ctx, netip.AddrPort{}, dst)
		return conn, func() {}, explain(err)
	}
	l := lease{ports: &d.ports, pair: pair{client.Addr(), dst}}
	conn, err = d.spoof(ctx, &l, client)
	return conn, l.end, explain(err)
}

// spoofable tells whether addr can be a source on lo. A link-local address of
// IPv6 belongs to one link and cannot: the application sees such a client under
// the pod's own address. IPv4's 169.254.0.0/16 is routed like any other.
func spoofable(addr netip.Addr) bool {
	return !addr.IsLoopback() && !(addr.Is6() && addr.IsLinkLocalUnicast())
}

// spoof tries the client's own port in nat mode, then ports of our choice.
func (d *dialer) spoof(ctx context.Context, l *lease, client netip.AddrPort) (conn *net.TCPConn, err error) {
	mayRefuse := d.mode == contract.ModeTProxy
	if d.mode == contract.ModeNAT {
		conn, err = connect(ctx, client, l.pair.dst)
		if !portRefused(err) {
			return conn, err
		}
	}
	// In tproxy mode the client's port is taken by the accepted socket; in
	// nat mode it has just been refused.
	l.hold(client.Port())
	for range dialTries {
		port, terr := l.take()
		if terr != nil {
			return nil, terr
		}
		conn, err = connect(ctx, netip.AddrPortFrom(client.Addr(), port), l.pair.dst)
		switch {
		case portRefused(err):
		case mayRefuse && errors.Is(err, unix.ECONNREFUSED):
			// A socket that lingers from an earlier connection of the
			// client may have answered in the application's place.
			mayRefuse = false
		default:
			return conn, err
		}
	}
	return nil, fmt.Errorf("%d ports tried: %w", dialTries, err)
}

// portRefused tells whether another port may do. EADDRINUSE: something listens
// on it on every address; EACCES: it is privileged; EADDRNOTAVAIL from connect:
// there is such a connection already.
func portRefused(err error) bool {
	switch call, errno := syscallOf(err); call {
	case "bind":
		return errno == unix.EADDRINUSE || errno == unix.EACCES
	case "connect":
		return errno == unix.EADDRINUSE || errno == unix.EADDRNOTAVAIL
	}
	return false
}

// explain puts the missing plugin step into the error where that is the cause.
func explain(err error) error {
	switch call, errno := syscallOf(err); {
	case call == "bind" && errno == unix.EADDRNOTAVAIL,
		call == "connect" && errno == unix.EINVAL: // bind let it pass: the pod has ip_nonlocal_bind
		return fmt.Errorf("%w: %w; %s", err, errUnprepared, cure)
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%w: no answer within %v: the application's accept queue is full, "+
			"or the plugin was told another proxy-uid than this process's %d", err, dialTimeout, os.Getuid())
	}
	return err
}

// syscallOf finds the system call that failed.
func syscallOf(err error) (string, error) {
	var serr *os.SyscallError
	if errors.As(err, &serr) {
		return serr.Syscall, serr.Err
	}
	return "", nil
}

// lease is the ports that one connection occupies.
type lease struct {
	ports  *ports
	pair   pair
	held   uint16 // 0: none
	leased uint16 // 0: none
}

func (l *lease) hold(port uint16) {
	l.held = port
	l.ports.hold(l.pair, port)
}

// take exchanges the leased port, if there is one, for another.
func (l *lease) take() (uint16, error) {
	port, err := l.ports.take(l.pair)
	l.drop(&l.leased)
	l.leased = port
	return port, err
}

func (l *lease) end() {
	l.drop(&l.leased)
	l.drop(&l.held)
}

func (l *lease) drop(port *uint16) {
	if *port != 0 {
		l.ports.release(l.pair, *port)
		*port = 0
	}
}
