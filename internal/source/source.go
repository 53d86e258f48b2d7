// Package source groups addresses for limits: all that one machine can have as many
// of as it likes are one source.
package source

import "net/netip"

// Of returns the source of an address: an IPv4 address is its own, an IPv6 address is
// one of its /64, all of which belongs to its owner, and 127.0.0.0/8 is one. It is
// invalid for the zero Addr.
func Of(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	length := 32
	switch {
	case addr.Is6():
		length = 64
	case addr.IsLoopback():
		length = 8
	}
	p, _ := addr.Prefix(length) // cannot fail: length fits the family
	return p
}
