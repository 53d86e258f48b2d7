package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// This file is the only one that sets or asks a socket option.

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
			setInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1),
			setInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 30),
			setInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15),
			setInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 4),
		)
	}}

	// What one side sent in one piece must not wait in us for more.
	noDelay = option{"TCP_NODELAY", func(fd int) error {
		return setInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}}

	// One socket accepts both families, whatever net.ipv6.bindv6only says.
	bothFamilies = option{"IPV6_V6ONLY", func(fd int) error {
		return setInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
	}}

	// The kernel hands a packet for a foreign port (or address) only to a
	// transparent socket. It is one bit for both families, so that the IPv4
	// option does for a dual-stack socket too.
	transparent = option{"IP_TRANSPARENT", func(fd int) error {
		return setInt(fd, unix.IPPROTO_IP, unix.IP_TRANSPARENT, 1)
	}}

	// One source address and port serves connections to several ports of
	// the application at once, and again while an earlier one is in
	// TIME_WAIT. Without the option bind would refuse the second.
	reuseAddr = option{"SO_REUSEADDR", func(fd int) error {
		return setInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}}

	// Binding a foreign IPv6 address needs this option or the sysctl
	// net.ipv6.ip_nonlocal_bind; it takes no capability.
	freeBind6 = option{"IPV6_FREEBIND", func(fd int) error {
		return setInt(fd, unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1)
	}}
)

// What a connection to the application has, from the pod's own address and from
// the client's. No SO_KEEPALIVE: it stays in the pod, where nobody vanishes
// without a word, and the four calls are a twenty-fifth of what a short
// connection costs.
var (
	dialOptions   = []option{noDelay}
	spoofOptions4 = append(dialOptions[:1:1], reuseAddr)
	spoofOptions6 = append(spoofOptions4[:2:2], freeBind6)
)

func optionsFor(source netip.AddrPort) []option {
	switch {
	case !source.IsValid():
		return dialOptions
	case source.Addr().Is6():
		return spoofOptions6
	}
	return spoofOptions4
}

func apply(fd int, opts []option) error {
	for _, o := range opts {
		if err := o.set(fd); err != nil {
			return fmt.Errorf("%s: %w", o.name, os.NewSyscallError("setsockopt", err))
		}
	}
	return nil
}

// control applies options between socket and bind.
func control(opts []option) func(string, string, syscall.RawConn) error {
	return func(_, _ string, raw syscall.RawConn) error {
		var err error
		cerr := raw.Control(func(fd uintptr) { err = apply(int(fd), opts) })
		return errors.Join(cerr, err)
	}
}

// listen opens the listener, with both families on one socket when addr is
// unspecified and the kernel has IPv6.
func listen(ctx context.Context, addr netip.AddrPort, opts ...option) (*net.TCPListener, error) {
	opts = append(opts, keepAlive, noDelay)
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
	lc := net.ListenConfig{Control: control(opts), KeepAlive: -1} // -1: keepAlive is inherited
	lc.SetMultipathTCP(false)                                     // splice works on plain TCP only
	ln, err := lc.Listen(ctx, network, addr.String())
	if err != nil {
		return nil, err // package net says it all: listen tcp6 [::]:5000: bind: address already in use
	}
	return ln.(*net.TCPListener), nil
}

// detach takes a listener away from package net, whose poller would look at each
// connection, too.
func detach(ln *net.TCPListener) (fd int, err error) {
	defer ln.Close()
	raw, err := ln.SyscallConn()
	if err != nil {
		return -1, err
	}
	cerr := raw.Control(func(from uintptr) {
		fd, err = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 0)
		err = os.NewSyscallError("fcntl", err)
	})
	return fd, errors.Join(cerr, err)
}

// dialSocket begins a connection to dst, from source unless that is zero.
// connected tells when it is there.
func dialSocket(source, dst netip.AddrPort) (fd int, err error) {
	fd, err = socket(dst.Addr().Is6())
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	err = apply(fd, optionsFor(source))
	if err == nil && source.IsValid() {
		err = os.NewSyscallError("bind", bind(fd, source))
	}
	if err == nil {
		if err = connectFD(fd, dst); err == unix.EINPROGRESS {
			return fd, nil
		}
		err = os.NewSyscallError("connect", err)
	}
	if err != nil {
		closeFD(fd)
		return -1, err
	}
	return fd, nil
}

// connected tells how a dial went: false while it is under way.
func connected(fd int, dst netip.AddrPort) (bool, error) {
	switch err := connectFD(fd, dst); err {
	case nil, unix.EISCONN:
		return true, nil
	case unix.EALREADY, unix.EINPROGRESS:
		return false, nil
	default:
		return false, os.NewSyscallError("connect", err)
	}
}

// connect is a dial that waits.
func connect(ctx context.Context, source, dst netip.AddrPort) (*net.TCPConn, error) {
	d := net.Dialer{KeepAlive: -1, Control: control(optionsFor(source))}
	d.SetMultipathTCP(false)
	network := "tcp4"
	if dst.Addr().Is6() {
		network = "tcp6"
	}
	if source.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(source)
	}
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

// resetOnClose makes the close of a descriptor do so.
func resetOnClose(fd int) {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}

// soOriginalDst is SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST: from netfilter's
// headers, the same number at the level of each family.
const soOriginalDst = 80

// redirectedFrom asks conntrack for the address that a client's connection had
// before the plugin's rule redirected it to us.
func redirectedFrom(fd int, client netip.AddrPort) (netip.AddrPort, error) {
	// A v4-mapped socket is asked as the IPv4 one that it is on the wire.
	level := unix.IPPROTO_IP
	if client.Addr().Is6() {
		level = unix.IPPROTO_IPV6
	}
	dst, err := getAddr(fd, level, soOriginalDst)
	return dst, os.NewSyscallError("getsockopt SO_ORIGINAL_DST", err)
}

// intercepted is where the client of a connection that the plugin diverted to
// us wanted to go: tproxy leaves the packet as it is.
func intercepted(fd int, _ netip.AddrPort) (netip.AddrPort, error) {
	dst, err := localOf(fd)
	return dst, os.NewSyscallError("getsockname", err)
}

// socketError takes the error that the kernel keeps for the next caller, if any.
func socketError(fd int) error {
	n, err := getInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && n != 0 {
		err = unix.Errno(n)
	}
	return err
}

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
