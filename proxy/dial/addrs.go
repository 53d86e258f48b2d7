package dial

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// snapshotAge is how long an address may still count as the pod's after it was
// read.
const snapshotAge = time.Second

// Addrs knows the addresses of the pod's interfaces. Asking the kernel costs some
// 50 µs, so it keeps a snapshot.
type Addrs struct {
	list  func() ([]net.Addr, error) // net.InterfaceAddrs
	local localPorts                 // read along with them

	mu    sync.Mutex
	own   map[netip.Addr]bool
	casts map[netip.Addr]bool // the broadcast addresses of their networks
	read  time.Time
}

// assigned reports whether an interface of the pod has the address. It asks the
// kernel before it says no: addresses come and go.
func (a *Addrs) assigned(addr netip.Addr) (bool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	addr = addr.WithZone("")
	if a.own[addr] && time.Since(a.read) < snapshotAge {
		return true, nil
	}
	if err := a.refresh(); err != nil {
		return false, err
	}
	return a.own[addr], nil
}

// known is assigned by the last snapshot alone. It is for a client's address, which
// is rarely the pod's own; call it after assigned.
func (a *Addrs) known(addr netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.own[addr.WithZone("")]
}

// One returns the lowest of the pod's addresses of a family that can be a source on
// lo, invalid if there is none yet.
func (a *Addrs) One(six bool) (netip.Addr, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.refresh(); err != nil {
		return netip.Addr{}, err
	}
	return a.least(six), nil
}

// update reads the addresses, unless the snapshot is as new as an address may be known.
func (a *Addrs) update() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if time.Since(a.read) < snapshotAge {
		return nil
	}
	return a.refresh()
}

// recent is One by a snapshot that update would not replace.
func (a *Addrs) recent(six bool) (netip.Addr, error) {
	if err := a.update(); err != nil {
		return netip.Addr{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.least(six), nil
}

// broadcasts reports whether addr is the broadcast address of one of the pod's
// networks, by the last snapshot alone.
func (a *Addrs) broadcasts(addr netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.casts[addr]
}

func (a *Addrs) least(six bool) netip.Addr {
	var least netip.Addr
	for addr := range a.own {
		if addr.Is6() == six && spoofable(addr) && (!least.IsValid() || addr.Less(least)) {
			least = addr
		}
	}
	return least
}

func (a *Addrs) refresh() error {
	list, err := a.list()
	if err != nil {
		return fmt.Errorf("list the pod's addresses: %w", err)
	}
	own, casts := make(map[netip.Addr]bool, len(list)), map[netip.Addr]bool{}
	for _, l := range list {
		if n, ok := l.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(n.IP); ok {
				own[addr.Unmap()] = true
			}
			if cast := directed(n); cast.IsValid() {
				casts[cast] = true
			}
		}
	}
	a.local.refresh()
	a.own, a.casts, a.read = own, casts, time.Now()
	return nil
}

// spoofable reports whether addr can be a source on lo. An IPv6 link-local address
// belongs to one link and cannot; the plugin's rules refuse such a client.
// 169.254.0.0/16 is routed like any other.
func spoofable(addr netip.Addr) bool {
	return !addr.IsLoopback() && !(addr.Is6() && addr.IsLinkLocalUnicast())
}
