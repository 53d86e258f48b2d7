package sock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/proxy/sys"
)

// Listen opens a listener, on one socket for both families when addr is
// unspecified and the kernel has IPv6. What it accepts has keepalive and
// TCP_NODELAY. The error is a *net.OpError.
func Listen(ctx context.Context, addr netip.AddrPort, opts ...Option) (*net.TCPListener, error) {
	opts = append(opts, keepAlive, noDelay)
	if addr.Addr().IsUnspecified() {
		all := netip.AddrPortFrom(netip.IPv6Unspecified(), addr.Port())
		ln, err := listen(ctx, "tcp6", all, append(opts, bothFamilies)...)
		if !errors.Is(err, unix.EAFNOSUPPORT) {
			return ln, err
		}
		addr = netip.AddrPortFrom(netip.IPv4Unspecified(), addr.Port())
	}
	return listen(ctx, "tcp", addr, opts...)
}

// ListenFamily is Listen for the family of addr alone, also when it is unspecified.
func ListenFamily(ctx context.Context, addr netip.AddrPort, opts ...Option) (*net.TCPListener, error) {
	network := "tcp4"
	if addr.Addr().Is6() {
		network = "tcp6"
		opts = append(opts, onlyIPv6)
	}
	return listen(ctx, network, addr, append(opts, keepAlive, noDelay)...)
}

// Inherit takes over a listener that another program opened, and gives it the options
// of Listen. With transparent it must have IP_TRANSPARENT, which cannot be set here
// without CAP_NET_RAW. The descriptor is closed in any case.
func Inherit(fd int, transparent bool) (*net.TCPListener, error) {
	file := os.NewFile(uintptr(fd), "listener")
	if file == nil {
		return nil, unix.EBADF
	}
	defer file.Close()
	if protocol, err := sys.GetInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); err != nil {
		return nil, fmt.Errorf("descriptor %d: %w", fd, os.NewSyscallError("getsockopt SO_PROTOCOL", err))
	} else if accepts, err := sys.GetInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || accepts == 0 || protocol != unix.IPPROTO_TCP {
		return nil, fmt.Errorf("descriptor %d is no listener of TCP", fd)
	}
	if on, err := sys.GetInt(fd, unix.IPPROTO_IP, unix.IP_TRANSPARENT); transparent && (err != nil || on == 0) {
		return nil, fmt.Errorf("descriptor %d lacks IP_TRANSPARENT, without which tproxy mode hands it no connection", fd)
	}
	if err := apply(fd, []Option{keepAlive, noDelay}); err != nil {
		return nil, err
	}
	ln, err := net.FileListener(file)
	if err != nil {
		return nil, err
	}
	return ln.(*net.TCPListener), nil
}

// ListenPlain opens a listener on addr without any option.
func ListenPlain(ctx context.Context, addr netip.AddrPort) (*net.TCPListener, error) {
	return listen(ctx, "tcp", addr)
}

func listen(ctx context.Context, network string, addr netip.AddrPort, opts ...Option) (*net.TCPListener, error) {
	lc := net.ListenConfig{Control: control(opts), KeepAlive: -1} // -1: keepAlive is inherited
	lc.SetMultipathTCP(false)                                     // splice works on plain TCP only
	ln, err := lc.Listen(ctx, network, addr.String())
	if err != nil {
		return nil, err // complete: listen tcp6 [::]:5000: bind: address already in use
	}
	return ln.(*net.TCPListener), nil
}

// Detach takes a listener out of package net, whose poller would look at every
// connection, too. The caller owns fd; ln is closed in any case.
func Detach(ln *net.TCPListener) (fd int, err error) {
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

// Descriptor is a listener's, which ln goes on to own.
func Descriptor(ln *net.TCPListener) (fd int, err error) {
	raw, err := ln.SyscallConn()
	if err != nil {
		return -1, err
	}
	err = raw.Control(func(f uintptr) { fd = int(f) })
	return fd, err
}

// AddrPort is a TCP address of package net, ::ffff:192.0.2.1 as 192.0.2.1.
func AddrPort(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
