package main

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// This file has all that is unsafe: the system calls of the data path, without
// what package unix adds to them. Every descriptor is non-blocking, so that
// none of them waits and the scheduler need not know of them; package unix's own
// would tell it twice each. Addresses come and go as netip values, without
// memory from the heap.

// read takes bytes from a socket; 0 is the end of the stream. recvfrom(2) and
// sendto(2) go to the socket, read(2) and write(2) by way of the file system.
func read(fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0, 0, 0)
	return result(n, errno)
}

func write(fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_NOSIGNAL, 0, 0)
	return result(n, errno)
}

// splice moves up to n bytes from a socket into a pipe or from a pipe into a
// socket.
func splice(from, to, n int) (int, error) {
	const flags = unix.SPLICE_F_MOVE | unix.SPLICE_F_NONBLOCK
	m, _, errno := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n), flags)
	return result(m, errno)
}

func closeFD(fd int) {
	_, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0)
}

func shutdownWrite(fd int) error {
	_, _, errno := unix.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), unix.SHUT_WR, 0)
	return failure(errno)
}

// setInt and getInt are setsockopt and getsockopt of an int.
func setInt(fd, level, option, value int) error {
	v := int32(value)
	_, _, errno := unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option), uintptr(unsafe.Pointer(&v)), 4, 0)
	return failure(errno)
}

func getInt(fd, level, option int) (int, error) {
	v, size := int32(0), uint32(4)
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option), uintptr(unsafe.Pointer(&v)), uintptr(unsafe.Pointer(&size)), 0)
	return int(v), failure(errno)
}

// getAddr is a getsockopt that answers with an address.
func getAddr(fd, level, option int) (netip.AddrPort, error) {
	a := sockaddr{size: sockaddrSize}
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option), uintptr(unsafe.Pointer(&a.b)), uintptr(unsafe.Pointer(&a.size)), 0)
	return a.addrPort(), failure(errno)
}

// socket makes a TCP socket.
func socket(six bool) (int, error) {
	family := unix.AF_INET
	if six {
		family = unix.AF_INET6
	}
	fd, _, errno := unix.RawSyscall(unix.SYS_SOCKET, uintptr(family), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	return result(fd, errno)
}

func bind(fd int, to netip.AddrPort) error {
	a := newSockaddr(to)
	_, _, errno := unix.RawSyscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&a.b)), uintptr(a.size))
	return failure(errno)
}

// connectFD begins to connect, and called again tells how that went: nil,
// EALREADY while it is under way, or why it failed.
func connectFD(fd int, to netip.AddrPort) error {
	a := newSockaddr(to)
	_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&a.b)), uintptr(a.size))
	return failure(errno)
}

// accept takes a connection from a listener's queue.
func accept(ln int) (fd int, client netip.AddrPort, err error) {
	a := sockaddr{size: sockaddrSize}
	n, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(ln), uintptr(unsafe.Pointer(&a.b)), uintptr(unsafe.Pointer(&a.size)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if fd, err = result(n, errno); err != nil {
		return fd, client, err
	}
	return fd, a.addrPort(), nil
}

// localOf is getsockname.
func localOf(fd int) (netip.AddrPort, error) {
	a := sockaddr{size: sockaddrSize}
	_, _, errno := unix.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&a.b)), uintptr(unsafe.Pointer(&a.size)))
	return a.addrPort(), failure(errno)
}

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
		scope, _ := strconv.ParseUint(ip.Zone(), 10, 32) // addrPort wrote it; "" is 0
		binary.NativeEndian.PutUint32(a.b[24:], uint32(scope))
		a.size = unix.SizeofSockaddrInet6
	}
	return a
}

// addrPort turns ::ffff:192.0.2.1 into 192.0.2.1. A scope becomes a zone, by
// number.
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

func result(n uintptr, errno unix.Errno) (int, error) {
	if errno != 0 {
		return -1, failure(errno)
	}
	return int(n), nil
}

// Errors that come often, as values that are not made anew.
var (
	errAgain      error = unix.EAGAIN
	errInProgress error = unix.EINPROGRESS
)

func failure(errno unix.Errno) error {
	switch errno {
	case 0:
		return nil
	case unix.EAGAIN:
		return errAgain
	case unix.EINPROGRESS:
		return errInProgress
	}
	return errno
}
