package main

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// snapshotAge is how long an address that was taken from an interface may
// still count as the pod's.
const snapshotAge = time.Second

// addrs knows the addresses of the pod's interfaces. Asking the kernel costs
// some 50 µs, so it keeps a snapshot.
type addrs struct {
	list func() ([]net.Addr, error) // net.InterfaceAddrs

	mu   sync.Mutex
	own  map[netip.Addr]bool
	read time.Time
}

// assigned tells whether an interface of the pod has the address, and asks the
// kernel before it says no: addresses come and go.
func (a *addrs) assigned(addr netip.Addr) (bool, error) {
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

// known is assigned by the last snapshot alone, for the address of a client,
// which is rarely the pod's own. Call it after assigned.
func (a *addrs) known(addr netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.own[addr.WithZone("")]
}

// one returns the address of a family that stands for all of the pod's, invalid
// if there is none yet. Clients of a link-local IPv6 address are not spoofed, so
// that one does not count.
func (a *addrs) one(six bool) (netip.Addr, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.refresh(); err != nil {
		return netip.Addr{}, err
	}
	var least netip.Addr
	for addr := range a.own {
		if addr.Is6() == six && spoofable(addr) && (!least.IsValid() || addr.Less(least)) {
			least = addr
		}
	}
	return least, nil
}

func (a *addrs) refresh() error {
	list, err := a.list()
	if err != nil {
		return fmt.Errorf("list the pod's addresses: %w", err)
	}
	own := make(map[netip.Addr]bool, len(list))
	for _, l := range list {
		if n, ok := l.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(n.IP); ok {
				own[addr.Unmap()] = true
			}
		}
	}
	a.own, a.read = own, time.Now()
	return nil
}
