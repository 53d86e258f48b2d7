package main

import (
	"errors"
	"fmt"
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

// attempt is one connection's search for a source that the kernel lets us dial
// from.
type attempt struct {
	lease
	plain  bool  // from whatever source the kernel takes
	tries  uint8 // with ports of our choice
	retold bool  // a refusal was not believed once
}

// next returns the source of the first attempt, for which err is nil, or of the
// one after an attempt that failed with err; zero is whatever the kernel takes.
// It returns the error that ends the search. The client's own port comes first in
// nat mode; in tproxy mode the accepted socket has it.
func (d *dialer) next(a *attempt, pr pair, client netip.AddrPort, err error) (source netip.AddrPort, _ error) {
	switch {
	case err == nil:
		if a.plain = !spoofable(pr.client) || d.own.known(pr.client); a.plain {
			return netip.AddrPort{}, nil
		}
		if d.mode == contract.ModeNAT {
			return client, nil
		}
		a.hold(&d.ports, pr, client.Port())
	case portRefused(err) && !a.plain:
		if a.tries == dialTries {
			return source, fmt.Errorf("%d ports tried: %w", dialTries, err)
		}
		a.hold(&d.ports, pr, client.Port()) // it has just been refused
	case a.tries > 0 && d.mode == contract.ModeTProxy && !a.retold && errors.Is(err, unix.ECONNREFUSED):
		// A socket that lingers from an earlier connection of the client may
		// have answered in the application's place.
		a.retold = true
	default:
		return source, explain(err)
	}
	a.tries++
	port, err := a.take(&d.ports, pr)
	return netip.AddrPortFrom(pr.client, port), err
}

// spoofable tells whether addr can be a source on lo. A link-local address of
// IPv6 belongs to one link and cannot: the application sees such a client under
// the pod's own address. IPv4's 169.254.0.0/16 is routed like any other.
func spoofable(addr netip.Addr) bool {
	return !addr.IsLoopback() && !(addr.Is6() && addr.IsLinkLocalUnicast())
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
	if errors.Is(err, os.ErrDeadlineExceeded) {
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
	held   uint16 // 0: none
	leased uint16 // 0: none
}

// hold keeps the client's own port from being taken. Few clients have one that
// could be.
func (l *lease) hold(p *ports, pr pair, port uint16) {
	if ours(port) && l.held == 0 {
		l.held = port
		p.hold(pr, port)
	}
}

// take exchanges the leased port, if there is one, for another.
func (l *lease) take(p *ports, pr pair) (uint16, error) {
	port, err := p.take(pr)
	l.drop(p, pr, &l.leased)
	l.leased = port
	return port, err
}

func (l *lease) end(p *ports, pr pair) {
	l.drop(p, pr, &l.leased)
	l.drop(p, pr, &l.held)
}

func (l *lease) drop(p *ports, pr pair, port *uint16) {
	if *port != 0 {
		p.release(pr, *port)
		*port = 0
	}
}
