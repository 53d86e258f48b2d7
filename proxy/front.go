package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/tproxy-cni/tproxy-cni/proxy/dial"
	"github.com/tproxy-cni/tproxy-cni/proxy/proxyproto"
	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
)

// fronts are other proxies of the pod that hand their connections over on a unix
// socket, each with a PROXY header: the sidecar connects to the application from the
// address in it. The zero value lets nobody.
type fronts struct {
	uids []uint32 // that may
	to   uint16   // the application's port; 0: the one in the header
}

// fromFront is the client of a connection on the unix socket, until its header names
// another. No TCP connection comes from port 0. To the limits all fronts are one source.
var fromFront = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)

var errLocalWhere = errors.New("the PROXY header names neither client nor destination (LOCAL): --accept-proxy-to would say where to connect to")

// check returns nil if the process that opened the connection may hand over others'.
// The socket file's mode keeps strangers from connecting; this holds whatever becomes of
// the file.
func (f *fronts) check(fd int) error {
	uid, err := sock.PeerUID(fd)
	if err != nil {
		return err
	}
	for _, u := range f.uids {
		if u == uid {
			return nil
		}
	}
	return fmt.Errorf("a process of uid %d must not use the --accept-proxy socket: only uid %d may", uid, f.uids)
}

// destination is where a connection is to go: a port of the pod, at the address to
// which the client connected, if that is the pod's.
func (f *fronts) destination(d *dial.Dialer, h proxyproto.Header) (netip.AddrPort, error) {
	port := f.to
	if port == 0 {
		port = h.Dst.Port()
	}
	if h.Local {
		if port == 0 {
			return netip.AddrPort{}, errLocalWhere
		}
		addr, err := d.Itself()
		return netip.AddrPortFrom(addr, port), err
	}
	addr, err := d.InPod(h.Client.Addr(), h.Dst.Addr())
	return netip.AddrPortFrom(addr, port), err
}

// uidsFor are who may use the socket: the sidecar's own user and the one that is given
// (0: none).
func uidsFor(given uint32) []uint32 {
	own := uint32(os.Getuid())
	if given == 0 || given == own {
		return []uint32{own}
	}
	return []uint32{own, given}
}
