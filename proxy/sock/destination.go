package sock

import (
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/proxy/sys"
)

// soOriginalDst is SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST of netfilter's
// headers: the same number, at each family's level.
const soOriginalDst = 80

// RedirectedFrom asks conntrack for the original destination of a connection that
// the rules of nat mode redirected. It fails with ENOENT for one that they did not.
func RedirectedFrom(fd int, client netip.AddrPort) (netip.AddrPort, error) {
	// A v4-mapped socket is asked as IPv4, which is what it is on the wire.
	level := unix.IPPROTO_IP
	if client.Addr().Is6() {
		level = unix.IPPROTO_IPV6
	}
	dst, err := sys.GetAddr(fd, level, soOriginalDst)
	return dst, os.NewSyscallError("getsockopt SO_ORIGINAL_DST", err)
}

// DivertedFrom is the original destination in tproxy mode: the local address, as
// tproxy leaves the packet unchanged.
func DivertedFrom(fd int, _ netip.AddrPort) (netip.AddrPort, error) {
	dst, err := sys.LocalAddr(fd)
	return dst, os.NewSyscallError("getsockname", err)
}
