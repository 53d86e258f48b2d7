package sys

import (
	"encoding/binary"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// sockaddr is a sockaddr_in (family, port, address) or a sockaddr_in6 (family,
// port, flow, address, scope), ports and addresses in network order.
type sockaddr struct {
	b    [sockaddrSize]byte
	size uint32
}

const sockaddrSize = unix.SizeofSockaddrInet6

func newSockaddr(to netip.AddrPort) (a sockaddr) {
	binary.BigEndian.PutUint16(a.b[2:], to.Port())
	if ip := to.Addr(); ip.Is4() {
		binary.NativeEndian.PutUint16(a.b[:], unix.AF_INET)
		b := ip.As4()
		copy(a.b[4:], b[:])
		a.size = unix.SizeofSockaddrInet4
	} else {
		binary.NativeEndian.PutUint16(a.b[:], unix.AF_INET6)
		b := ip.As16()
		copy(a.b[8:], b[:])
		scope, _ := strconv.ParseUint(ip.Zone(), 10, 32) // a number, from addrPort; "" is 0
		binary.NativeEndian.PutUint32(a.b[24:], uint32(scope))
		a.size = unix.SizeofSockaddrInet6
	}
	return a
}

// addrPort turns ::ffff:192.0.2.1 into 192.0.2.1, and a scope into a numeric
// zone. It is invalid for any other family.
func (a *sockaddr) addrPort() netip.AddrPort {
	port := binary.BigEndian.Uint16(a.b[2:])
	switch binary.NativeEndian.Uint16(a.b[:]) {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(a.b[4:8])), port)
	case unix.AF_INET6:
		ip := netip.AddrFrom16([16]byte(a.b[8:24])).Unmap()
		if scope := binary.NativeEndian.Uint32(a.b[24:]); scope != 0 {
			ip = ip.WithZone(strconv.FormatUint(uint64(scope), 10))
		}
		return netip.AddrPortFrom(ip, port)
	}
	return netip.AddrPort{}
}
