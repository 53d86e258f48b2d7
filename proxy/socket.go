package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// This file is the only one that sets or asks a socket option. TCP_NODELAY is
// not in it because package net sets it on every connection.

// option is one socket option, named for the error message.
type option struct {
	name string
	set  func(fd int) error
}

// Linux inherits every option of a listener to the sockets it accepts.
var (
	// A peer that vanished without a word is noticed after 90 seconds, and its
	// descriptors come back. The first probe comes well before conntrack, by
	// which nat mode lives, forgets a connection that one side has closed:
	// after 60 seconds (nf_conntrack_tcp_timeout_close_wait).
	keepAlive = option{"SO_KEEPALIVE", func(fd int) error {
		return errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1),
			unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 30),
			unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15),
			unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 4),
		)
	}}

	// One socket accepts both families, whatever net.ipv6.bindv6only says.
	bothFamilies = option{"IPV6_V6ONLY", func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
	}}

	// The kernel hands a packet for a foreign port (or address) only to a
	// transparent socket. It is one bit for both families, so that the IPv4
	// option does for a dual-stack socket too.
	transparent = option{"IP_TRANSPARENT", func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TRANSPARENT, 1)
	}}

	// One source address and port serves connections to several ports of
	// the application at once, and again while an earlier one is in
	// TIME_WAIT. Without the option bind would refuse the second.
	reuseAddr = option{"SO_REUSEADDR", func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}}

	// Binding a foreign IPv6 address needs this option or the sysctl
	// net.ipv6.ip_nonlocal_bind; it takes no capability.
	freeBind6 = option{"IPV6_FREEBIND", func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1)
	}}
)

// control applies options between socket and bind.
func control(opts ...option) func(string, string, syscall.RawConn) error {
	return func(_, _ string, raw syscall.RawConn) error {
		var err error
		cerr := raw.Control(func(fd uintptr) {
			for _, o := range opts {
				if err = o.set(int(fd)); err != nil {
					err = fmt.Errorf("%s: %w", o.name, os.NewSyscallError("setsockopt", err))
					return
				}
			}
		})
		return errors.Join(cerr, err)
	}
}

// listen opens the listener, with both families on one socket when addr is
// unspecified and the kernel has IPv6.
func listen(ctx context.Context, addr netip.AddrPort, opts ...option) (*net.TCPListener, error) {
	opts = append(opts, keepAlive)
	if addr.Addr().IsUnspecified() {
		all := netip.AddrPortFrom(netip.IPv6Unspecified(), addr.Port())
		ln, err := listenOne(ctx, "tcp6", all, append(opts, bothFamilies)...)
		if !errors.Is(err, unix.EAFNOSUPPORT) {
			return ln, err
		}
		addr = netip.AddrPortFrom(netip.IPv4Unspecified(), addr.Port())
	}
	return listenOne(ctx, "tcp", addr, opts...)
}

func listenOne(ctx context.Context, network string, addr netip.AddrPort, opts ...option) (*net.TCPListener, error) {
	lc := net.ListenConfig{Control: control(opts...), KeepAlive: -1} // -1: keepAlive is inherited
	lc.SetMultipathTCP(false)                                        // splice works on plain TCP only
	ln, err := lc.Listen(ctx, network, addr.String())
	if err != nil {
		return nil, err // package net says it all: listen tcp6 [::]:5000: bind: address already in use
	}
	return ln.(*net.TCPListener), nil
}

// connect opens a connection to dst, from source unless that is zero.
func connect(ctx context.Context, source, dst netip.AddrPort) (*net.TCPConn, error) {
	opts := []option{keepAlive}
	d := net.Dialer{KeepAlive: -1}
	d.SetMultipathTCP(false)
	network := "tcp4"
	if dst.Addr().Is6() {
		network = "tcp6"
	}
	if source.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(source)
		opts = append(opts, reuseAddr)
		if source.Addr().Is6() {
			opts = append(opts, freeBind6)
		}
	}
	d.Control = control(opts...)
	conn, err := d.DialContext(ctx, network, dst.String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// reset closes the connection with a RST instead of a FIN. The option fails
// only on a connection that is already gone.
func reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0)
	_ = conn.Close()
}

// redirectedFrom asks conntrack for the address that a connection had before
// the plugin's rule redirected it to us.
func redirectedFrom(conn *net.TCPConn) (dst netip.AddrPort, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return dst, err
	}
	// A v4-mapped socket is asked as the IPv4 one that it is on the wire.
	ask := originalDst4
	if localAddr(conn).Addr().Is6() {
		ask = originalDst6
	}
	cerr := raw.Control(func(fd uintptr) { dst, err = ask(int(fd)) })
	return dst, errors.Join(cerr, os.NewSyscallError("getsockopt SO_ORIGINAL_DST", err))
}

// soOriginalDst is SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST: from netfilter's
// headers, the same number at the level of each family.
const soOriginalDst = 80

func originalDst4(fd int) (netip.AddrPort, error) {
	// The answer is a sockaddr_in of 16 bytes: family, port, address. An
	// ipv6_mreq is a plain array of that size in front.
	m, err := unix.GetsockoptIPv6Mreq(fd, unix.IPPROTO_IP, soOriginalDst)
	if err != nil {
		return netip.AddrPort{}, err
	}
	b := m.Multiaddr
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), uint16(b[2])<<8|uint16(b[3])), nil
}

func originalDst6(fd int) (netip.AddrPort, error) {
	// The answer is a sockaddr_in6, which an ip6_mtuinfo begins with.
	m, err := unix.GetsockoptIPv6MTUInfo(fd, unix.IPPROTO_IPV6, soOriginalDst)
	if err != nil {
		return netip.AddrPort{}, err
	}
	addr := netip.AddrFrom16(m.Addr.Addr)
	if m.Addr.Scope_id != 0 {
		addr = addr.WithZone(fmt.Sprint(m.Addr.Scope_id))
	}
	// The kernel left the port in network order, whatever ours is.
	port := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, m.Addr.Port))
	return netip.AddrPortFrom(addr, port), nil
}

// tcpClosed tells whether the kernel has given the connection up: by a reset,
// a timeout, or because both sides have closed it and each knows.
func tcpClosed(fd int) bool {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	return err == nil && info.State == unix.BPF_TCP_CLOSE
}

// socketError takes the error that the kernel keeps for the next caller, if any.
func socketError(fd int) error {
	n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && n != 0 {
		err = unix.Errno(n)
	}
	return err
}

func localAddr(conn *net.TCPConn) netip.AddrPort  { return plain(conn.LocalAddr()) }
func remoteAddr(conn *net.TCPConn) netip.AddrPort { return plain(conn.RemoteAddr()) }

// plain turns ::ffff:192.0.2.1 into 192.0.2.1.
func plain(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// raiseNoFile lifts the soft limit of descriptors to the hard one and returns
// it. The Go runtime does so too, but only by default and only at start.
func raiseNoFile() (uint64, error) {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 0, os.NewSyscallError("getrlimit", err)
	}
	if r.Cur < r.Max {
		r.Cur = r.Max
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
			return 0, os.NewSyscallError("setrlimit", err)
		}
	}
	return r.Cur, nil
}
