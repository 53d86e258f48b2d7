// Package dial finds the source from which a client's connection to the application
// is made: the client's own address, and a port that the kernel lets us have.
package dial

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
)

// maxTries bounds the search for a port. A port is refused where something in the
// pod listens on it on every address.
const maxTries = 64

// Dialer opens the connections to the application. It is safe for all loops at
// once.
type Dialer struct {
	mode string
	port uint16 // of the sidecar's own listener
	own  *Addrs
	ports

	// Refused gets a value when a client found no port. It has room for one.
	Refused chan struct{}
}

// New makes the dialer of a sidecar that listens on port. own is the pod's.
func New(mode string, port uint16, own *Addrs) *Dialer {
	return &Dialer{mode: mode, port: port, own: own, Refused: make(chan struct{}, 1)}
}

// NewAddrs makes the addresses of this network namespace.
func NewAddrs() *Addrs {
	return &Addrs{list: net.InterfaceAddrs, local: localPorts{late: sock.BindsLate()}}
}

// Check returns nil if a client may be connected to dst, an error that is
// ErrNotIntercepted if not. Both addresses come from the packet, and a client can
// put anything there: the sidecar must not be an open relay, nor connect to itself.
func (d *Dialer) Check(client netip.Addr, dst netip.AddrPort) error {
	switch {
	case client.IsLoopback():
		return fmt.Errorf("%w: %s is the pod itself, not a client", ErrNotIntercepted, client)
	case !spoofable(client):
		return fmt.Errorf("%w: %s is valid on its own link only and cannot be shown to the application%s", ErrNotIntercepted, client, advice(client))
	case dst.Port() == d.port:
		return fmt.Errorf("%w: %s is the proxy itself", ErrNotIntercepted, dst)
	case dst.Addr().IsLoopback():
		return fmt.Errorf("%w: connections to %s are never redirected", ErrNotIntercepted, dst)
	}
	switch own, err := d.own.assigned(dst.Addr()); {
	case err != nil:
		return err
	case !own:
		return fmt.Errorf("%w: no interface of this pod has the address of %s", ErrNotIntercepted, dst)
	}
	return nil
}

// Open starts a connection from a source that Next returned. See sock.Dial.
func (d *Dialer) Open(source, dst netip.AddrPort) (fd int, err error) {
	return sock.Dial(source, dst, d.own.local.has(source.Port()))
}

// Attempt is one connection's search for a source that the kernel lets us dial
// from. Its zero value is ready; End gives back its ports.
type Attempt struct {
	lease
	plain  bool  // from whatever source the kernel picks
	named  bool  // a PROXY header names the client
	tries  uint8 // with ports of our choice
	retold bool  // one refusal has been ignored
}

// Plain reports whether the connection's source is the kernel's choice, not the
// client's address.
func (a *Attempt) Plain() bool { return a.plain }

// Named says that the client is one that a PROXY header names, so that no accepted
// socket has its address and port, as far as is known, in either mode.
func (a *Attempt) Named() { a.named = true }

// Next returns the source of the first attempt, for which err is nil, or of the one
// after an attempt that failed with err; zero leaves it to the kernel. It returns
// the error that ends the search. The client's own port comes first, except in tproxy
// mode, where the accepted socket has it unless the client is named by a header.
func (d *Dialer) Next(a *Attempt, pr Pair, client netip.AddrPort, err error) (source netip.AddrPort, _ error) {
	switch {
	case err == nil:
		if a.plain = !a.named && d.own.known(pr.Client); a.plain {
			return netip.AddrPort{}, nil
		}
		if d.mode == contract.ModeNAT && client.Port() != 0 {
			return client, nil
		}
		a.hold(&d.ports, pr, client.Port())
		if a.named && client.Port() != 0 {
			return client, nil
		}
	case portRefused(err) && !a.plain:
		if a.tries == maxTries {
			select {
			case d.Refused <- struct{}{}:
			default: // one is there already
			}
			return source, fmt.Errorf("%d ports tried: %w: %s", maxTries, err, holderKind(err))
		}
		a.hold(&d.ports, pr, client.Port()) // it has just been refused
	case (a.tries > 0 || a.named) && d.mode == contract.ModeTProxy && !a.retold && errors.Is(err, unix.ECONNREFUSED):
		// A socket in TIME_WAIT from an earlier connection of the client may have
		// answered in the application's place or, for a client that is named, one
		// that it has open from the same port without a header.
		a.retold = true
	default:
		return source, explain(err)
	}
	a.tries++
	port, err := a.take(&d.ports, pr)
	return netip.AddrPortFrom(pr.Client, port), err
}

// End gives back the ports of an attempt. It is idempotent.
func (d *Dialer) End(a *Attempt, pr Pair) { a.end(&d.ports, pr) }

// advice is what can be done for a link-local client.
func advice(client netip.Addr) string {
	if !client.IsLinkLocalUnicast() {
		return ""
	}
	return "; let such clients in directly (" + contract.AnnotationPrefix + "exclude-source-cidrs: fe80::/10)"
}
