package main

import (
	"net/netip"
	"slices"

	"github.com/tproxy-cni/tproxy-cni/internal/ranges"
)

// trusted is whose connections begin with a PROXY header. The zero value is nobody.
type trusted struct {
	from  []netip.Prefix
	ports []ranges.Ports // original destination ports; all if empty
}

// begins reports whether a connection begins with a header.
func (t *trusted) begins(peer netip.Addr, port uint16) bool {
	return len(t.from) > 0 &&
		slices.ContainsFunc(t.from, func(p netip.Prefix) bool { return p.Contains(peer) }) &&
		(len(t.ports) == 0 || slices.ContainsFunc(t.ports, func(r ranges.Ports) bool { return r.Has(port) }))
}

// all reports whether every peer of a family is trusted.
func (t *trusted) all() bool {
	return slices.ContainsFunc(t.from, func(p netip.Prefix) bool { return p.Bits() == 0 })
}
