package probe

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
)

// OwnListeners are the listeners to which the probe connects: while a check runs one of
// each family, on any free port. Whoever shows the pod's listeners leaves them out. The
// zero value has none; it may be used from any goroutine.
type OwnListeners struct {
	mu    sync.Mutex
	ports []uint16
}

// Apart calls list with their ports. Until list returns none is opened and none closed,
// so a list of the pod's listeners that it makes has no other of them.
func (o *OwnListeners) Apart(list func(ports []uint16)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	list(o.ports)
}

// open opens one on a free port of addr, which is closed with close.
func (o *OwnListeners) open(ctx context.Context, addr netip.Addr) (*net.TCPListener, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	ln, err := sock.ListenPlain(ctx, netip.AddrPortFrom(addr, 0))
	if err == nil {
		o.ports = append(o.ports, sock.AddrPort(ln.Addr()).Port())
	}
	return ln, err
}

func (o *OwnListeners) close(ln *net.TCPListener) {
	o.mu.Lock()
	defer o.mu.Unlock()
	ln.Close()
	// One only: the families' ports may be the same.
	if i := slices.Index(o.ports, sock.AddrPort(ln.Addr()).Port()); i >= 0 {
		o.ports = slices.Delete(o.ports, i, i+1)
	}
}
