// Package sock opens the sidecar's sockets: the listeners, the connections to the
// application and their options. It is the only package that sets one.
package sock

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/proxy/sys"
)

// Option is a socket option. Its name is for the error message.
type Option struct {
	name string
	set  func(fd int) error
}

// Transparent lets the listener of tproxy mode take packets for foreign ports and
// addresses: the kernel hands them to a transparent socket only. It is one bit for
// both families, so the IPv4 option does for a dual-stack socket, too. It needs
// CAP_NET_RAW.
var Transparent = Option{"IP_TRANSPARENT", func(fd int) error {
	return sys.SetInt(fd, unix.IPPROTO_IP, unix.IP_TRANSPARENT, 1)
}}

// Linux passes every option of a listener on to the sockets that it accepts.
var (
	// A peer that vanished without a FIN or RST is noticed after three minutes,
	// and its descriptors come back; an outage of two and a half is survived.
	// conntrack, on which nat mode depends, forgets a half-closed connection
	// after 60 seconds (nf_conntrack_tcp_timeout_close_wait) where the plugin
	// could not raise that: the first probe comes well before.
	keepAlive = Option{"SO_KEEPALIVE", func(fd int) error {
		return errors.Join(
			sys.SetInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1),
			sys.SetInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 30),
			sys.SetInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15),
			sys.SetInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 10),
		)
	}}

	// What one side sends in one piece is passed on without waiting for more.
	noDelay = Option{"TCP_NODELAY", func(fd int) error {
		return sys.SetInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}}

	// One socket accepts both families, whatever net.ipv6.bindv6only says.
	bothFamilies = Option{"IPV6_V6ONLY", func(fd int) error {
		return sys.SetInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
	}}

	// One socket for each family.
	onlyIPv6 = Option{"IPV6_V6ONLY", func(fd int) error {
		return sys.SetInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}}

	// One source address and port serves connections to several ports of the
	// application at once, and again while an earlier one is in TIME_WAIT.
	// Without the option the second bind fails.
	reuseAddr = Option{"SO_REUSEADDR", func(fd int) error {
		return sys.SetInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}}

	// A foreign IPv6 address can be bound with this option or with the sysctl
	// net.ipv6.ip_nonlocal_bind; it needs no capability.
	freeBind6 = Option{"IPV6_FREEBIND", func(fd int) error {
		return sys.SetInt(fd, unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1)
	}}
)

// The options of a connection to the application, from the pod's own address and
// from the client's. There is no SO_KEEPALIVE: before it has sent its FIN an
// application does not vanish silently (see KeepAliveLocal), and the four calls are
// 4 % of what a short connection costs.
var (
	dialOptions   = []Option{noDelay}
	spoofOptions4 = append(dialOptions[:1:1], reuseAddr)
	spoofOptions6 = append(spoofOptions4[:2:2], freeBind6)
)

func optionsFor(source netip.AddrPort) []Option {
	switch {
	case !source.IsValid():
		return dialOptions
	case source.Addr().Is6():
		return spoofOptions6
	}
	return spoofOptions4
}

func apply(fd int, opts []Option) error {
	for _, o := range opts {
		if err := o.set(fd); err != nil {
			return fmt.Errorf("%s: %w", o.name, os.NewSyscallError("setsockopt", err))
		}
	}
	return nil
}

// control applies options between socket and bind.
func control(opts []Option) func(string, string, syscall.RawConn) error {
	return func(_, _ string, raw syscall.RawConn) error {
		var err error
		cerr := raw.Control(func(fd uintptr) { err = apply(int(fd), opts) })
		return errors.Join(cerr, err)
	}
}

// KeepAliveLocal has the kernel probe every 10 seconds whether the application's
// socket still exists. The pod's own kernel answers, not the application.
func KeepAliveLocal(fd int) {
	_ = sys.SetInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	_ = sys.SetInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 10)
	_ = sys.SetInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 10)
}
