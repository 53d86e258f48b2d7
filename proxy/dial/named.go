package dial

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
)

var (
	errNotNameable = errors.New("a PROXY header must not name")
	errNoFamily    = errors.New("the pod lacks the client's family")
)

// CheckNamed returns nil if a PROXY header may name the client, an error that says why
// not otherwise.
//
// A sender that is trusted with clients' addresses is not trusted with those that the
// application or the kernel take for something else: applications let their own pod
// in, and from a broadcast address the kernel would silently use the pod's own.
func (d *Dialer) CheckNamed(client netip.Addr) error {
	if err := d.own.update(); err != nil {
		return err
	}
	what := ""
	switch {
	case client.Is4In6():
		what = "an IPv4 address in the form of IPv6: the sender must listen on IPv4 by a socket of its own"
	case client.IsLoopback():
		what = "a loopback address"
	case client.IsUnspecified(), client.Is4() && client.As4()[0] == 0:
		what = "an address of no host"
	case client.IsMulticast():
		what = "a multicast address"
	case client.IsLinkLocalUnicast():
		what = "a link-local address"
	case client == broadcast, d.own.broadcasts(client):
		what = "a broadcast address"
	case d.own.known(client):
		what = "the pod itself"
	default:
		return nil
	}
	return fmt.Errorf("%w %s: it is %s", errNotNameable, client, what)
}

// InFamily returns where to connect a client to that was meant for dst: dst itself
// or, for a client of the other family, the pod's address of that family, at the same
// port. The error says that the pod has none.
func (d *Dialer) InFamily(client netip.Addr, dst netip.AddrPort) (netip.AddrPort, error) {
	if client.Is4() == dst.Addr().Is4() {
		return dst, nil
	}
	own, err := d.ownFor(client)
	return netip.AddrPortFrom(own, dst.Port()), err
}

// InPod returns the pod's address to show a client at: addr if it is one, otherwise
// any of the client's family. The error says that the pod has none.
func (d *Dialer) InPod(client, addr netip.Addr) (netip.Addr, error) {
	if d.own.known(addr) && spoofable(addr) {
		return addr, nil
	}
	return d.ownFor(client)
}

// Itself returns one of the pod's addresses, of IPv4 if it has one. The error says
// that it has none.
func (d *Dialer) Itself() (netip.Addr, error) {
	for _, six := range [2]bool{false, true} {
		if own, err := d.own.recent(six); err != nil || own.IsValid() {
			return own, err
		}
	}
	return netip.Addr{}, errors.New("this pod has no address yet")
}

func (d *Dialer) ownFor(client netip.Addr) (netip.Addr, error) {
	own, err := d.own.recent(client.Is6())
	if err == nil && !own.IsValid() {
		family := "IPv4"
		if client.Is6() {
			family = "IPv6"
		}
		err = fmt.Errorf("%w: a PROXY header names %s, and this pod has no %s address to show it at", errNoFamily, client, family)
	}
	return own, err
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// directed is the broadcast address of an interface's network, invalid if it has none.
func directed(n *net.IPNet) netip.Addr {
	ip := n.IP.To4()
	if ones, bits := n.Mask.Size(); ip == nil || bits != 32 || ones > 30 {
		return netip.Addr{}
	}
	var b [4]byte
	for i := range b {
		b[i] = ip[i] | ^n.Mask[i]
	}
	return netip.AddrFrom4(b)
}
