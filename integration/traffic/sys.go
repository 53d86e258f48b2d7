package traffic

import (
	"fmt"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// This file has every system call. They are raw, without telling the Go scheduler:
// the loop is the process's only goroutine. That saves some hundred nanoseconds each,
// and the wake-ups of the runtime's monitor, which would be measured with the proxy.

// loop is an epoll instance, level-triggered.
type loop struct {
	fd     int
	events [256]unix.EpollEvent
}

func newLoop() (*loop, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return &loop{fd: fd}, os.NewSyscallError("epoll_create1", err)
}

func (l *loop) add(fd int, events uint32) error {
	return l.control(unix.EPOLL_CTL_ADD, fd, events)
}

func (l *loop) change(fd int, events uint32) error {
	return l.control(unix.EPOLL_CTL_MOD, fd, events)
}

func (l *loop) control(op, fd int, events uint32) error {
	e := unix.EpollEvent{Events: events, Fd: int32(fd)}
	_, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(l.fd), uintptr(op), uintptr(fd),
		uintptr(unsafe.Pointer(&e)), 0, 0)
	return failed("epoll_ctl", errno)
}

// wait returns the ready events, after the timeout at the latest; a negative timeout
// waits forever, 0 does not wait.
func (l *loop) wait(timeout time.Duration) ([]unix.EpollEvent, error) {
	ts := unix.NsecToTimespec(max(int64(timeout), 0))
	limit := &ts
	if timeout < 0 {
		limit = nil
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT2, uintptr(l.fd), uintptr(unsafe.Pointer(&l.events)),
		uintptr(len(l.events)), uintptr(unsafe.Pointer(limit)), 0, 0)
	if errno == unix.EINTR {
		return nil, nil
	}
	return l.events[:n*boolToInt(errno == 0)], failed("epoll_pwait2", errno)
}

func boolToInt(b bool) uintptr {
	if b {
		return 1
	}
	return 0
}

// sharpTimer sets the timer slack of this thread, and of those it starts, to the
// minimum: a wait would end up to 50 µs late.
func sharpTimer() error {
	return os.NewSyscallError("prctl", unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0))
}

func read(fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	if errno != 0 {
		return 0, failed("read", errno)
	}
	return int(n), nil
}

// write writes head and body in one call. Either may be empty.
func write(fd int, head, body []byte) (int, error) {
	iov := [2]unix.Iovec{{Base: unsafe.SliceData(head)}, {Base: unsafe.SliceData(body)}}
	iov[0].SetLen(len(head))
	iov[1].SetLen(len(body))
	n, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&iov)), 2)
	if errno != 0 {
		return 0, failed("write", errno)
	}
	return int(n), nil
}

// writeMessage writes a whole message; a socket without room for 64 bytes is an
// error.
func writeMessage(fd int, m *message) error {
	n, err := write(fd, m[:], nil)
	if err == nil && n < messageSize {
		err = fmt.Errorf("only %d of %d bytes written", n, messageSize)
	}
	return err
}

func closeFD(fd int) { _, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

func endWrites(fd int) error {
	return os.NewSyscallError("shutdown", unix.Shutdown(fd, unix.SHUT_WR))
}

// breakOff makes the close that follows a reset.
func breakOff(fd int) error {
	return os.NewSyscallError("setsockopt SO_LINGER", unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
}

// failed returns nil, EAGAIN as it is, for callers to compare, or an error with the
// name of the call.
func failed(call string, errno unix.Errno) error {
	switch errno {
	case 0:
		return nil
	case unix.EAGAIN:
		return errno
	}
	return os.NewSyscallError(call, errno)
}

// socket makes a non-blocking TCP socket of the address' family.
func socket(addr netip.AddrPort) (int, unix.Sockaddr, error) {
	family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16()})
	if addr.Addr().Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, nil, os.NewSyscallError("socket", err)
	}
	for _, o := range [][2]int{{unix.SOL_SOCKET, unix.SO_REUSEADDR}, {unix.IPPROTO_TCP, unix.TCP_NODELAY}} {
		if err := unix.SetsockoptInt(fd, o[0], o[1], 1); err != nil {
			closeFD(fd)
			return 0, nil, os.NewSyscallError("setsockopt", err)
		}
	}
	return fd, sa, nil
}

// listen listens on every address of both families.
func listen(port int) (int, error) {
	fd, sa, err := socket(netip.AddrPortFrom(netip.IPv6Unspecified(), uint16(port)))
	if err != nil {
		return 0, err
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0); err != nil {
		return 0, os.NewSyscallError("setsockopt IPV6_V6ONLY", err)
	}
	if err := unix.Bind(fd, sa); err != nil {
		return 0, os.NewSyscallError("bind", err)
	}
	return fd, os.NewSyscallError("listen", unix.Listen(fd, 4096))
}

// accept returns EAGAIN when no connection waits.
func accept(listener int) (int, netip.AddrPort, error) {
	var sa unix.RawSockaddrInet6
	size := uint32(unix.SizeofSockaddrInet6)
	n, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listener), uintptr(unsafe.Pointer(&sa)),
		uintptr(unsafe.Pointer(&size)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return 0, netip.AddrPort{}, failed("accept", errno)
	}
	p := (*[2]byte)(unsafe.Pointer(&sa.Port)) // network order
	return int(n), netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(p[0])<<8|uint16(p[1])), nil
}

// connect starts to connect from source to target. The socket is writable once it is
// connected or has failed.
func connect(source, target netip.AddrPort) (int, error) {
	fd, sa, err := socket(source)
	if err != nil {
		return 0, err
	}
	if err := unix.Bind(fd, sa); err != nil {
		closeFD(fd)
		return 0, fmt.Errorf("bind %s: %w", source, err)
	}
	to := unix.Sockaddr(&unix.SockaddrInet6{Port: int(target.Port()), Addr: target.Addr().As16()})
	if target.Addr().Is4() {
		to = &unix.SockaddrInet4{Port: int(target.Port()), Addr: target.Addr().As4()}
	}
	if err := unix.Connect(fd, to); err != nil && err != unix.EINPROGRESS {
		closeFD(fd)
		return 0, fmt.Errorf("connect %s: %w", target, err)
	}
	return fd, nil
}

// connected returns the result of a connect that was started.
func connected(fd int) error {
	n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && n != 0 {
		err = unix.Errno(n)
	}
	return os.NewSyscallError("connect", err)
}
