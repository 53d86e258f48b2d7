package sock

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/proxy/sys"
)

// Dial starts a connection to dst, from source unless that is zero. Connected
// reports how it went. With late, connect(2) chooses the port instead of bind(2)
// where it can. The error is or wraps a *os.SyscallError, whose Syscall is
// socket, setsockopt, bind or connect.
func Dial(source, dst netip.AddrPort, late bool) (fd int, err error) {
	fd, err = sys.Socket(dst.Addr().Is6())
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err = apply(fd, optionsFor(source)); err == nil {
		err = unix.EADDRNOTAVAIL
		if late && bindLate(fd, source.Port()) == nil {
			err = dialFrom(fd, netip.AddrPortFrom(source.Addr(), 0), dst)
		}
		// Where connect cannot have the port, bind may: a reserved one, or one
		// that an earlier connection of the client has in TIME_WAIT.
		if errors.Is(err, unix.EADDRNOTAVAIL) {
			err = dialFrom(fd, source, dst)
		}
	}
	if err != nil {
		sys.Close(fd)
		return -1, err
	}
	return fd, nil
}

// dialFrom binds a socket to source, unless that is zero, and connects it.
func dialFrom(fd int, source, dst netip.AddrPort) error {
	if source.IsValid() {
		if err := sys.Bind(fd, source); err != nil {
			return os.NewSyscallError("bind", err)
		}
	}
	if err := sys.Connect(fd, dst); err != unix.EINPROGRESS {
		return os.NewSyscallError("connect", err)
	}
	return nil
}

// Connected reports whether a dial has been answered: false while it is under
// way, an error if it failed.
func Connected(fd int, dst netip.AddrPort) (bool, error) {
	switch err := sys.Connect(fd, dst); err {
	case nil, unix.EISCONN:
		return true, nil
	case unix.EALREADY, unix.EINPROGRESS:
		return false, nil
	default:
		return false, os.NewSyscallError("connect", err)
	}
}

// bindLate makes bind take the address alone; connect then takes the port, from a
// range that has only this one. See dial.localPorts.
func bindLate(fd int, port uint16) error {
	err := sys.SetInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	if err == nil {
		err = sys.SetInt(fd, unix.IPPROTO_IP, unix.IP_LOCAL_PORT_RANGE, int(port)<<16|int(port))
	}
	return err
}

// BindsLate reports whether the kernel supports Dial's late (Linux 6.3).
func BindsLate() bool {
	fd, err := sys.Socket(false)
	if err != nil {
		return false
	}
	defer sys.Close(fd)
	return bindLate(fd, 1) == nil
}

// TryBind binds source as Dial does and gives it back. The error is that of the
// call that failed.
func TryBind(source netip.AddrPort) error {
	fd, err := sys.Socket(source.Addr().Is6())
	if err != nil {
		return err
	}
	defer sys.Close(fd)
	if err := apply(fd, optionsFor(source)); err != nil {
		return err
	}
	return sys.Bind(fd, source)
}

// Connect dials with the options of Dial and waits for the answer.
func Connect(ctx context.Context, source, dst netip.AddrPort) (*net.TCPConn, error) {
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

// Reset closes a connection with a RST instead of a FIN. The option fails only on
// a connection that is already gone.
func Reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0)
	_ = conn.Close()
}
