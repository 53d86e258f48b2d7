// Package sys makes the system calls of the data path, and is the only package
// of the sidecar that uses unsafe.
//
// Every descriptor is non-blocking, so no call but Epoll.Wait can block, and the
// calls skip what package unix does to tell Go's scheduler of each. Addresses are
// netip values and errors are prepared values: a call allocates nothing. An error
// is a bare unix.Errno; the caller adds the name of the call.
package sys

import (
	"net/netip"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Read takes bytes from a socket; 0 is the end of the stream. (recvfrom(2) and
// sendto(2) go straight to the socket, read(2) and write(2) through the VFS.)
func Read(fd int, b []byte) (int, error) { return receive(fd, b, 0) }

// Peek is Read without consuming the bytes.
func Peek(fd int, b []byte) (int, error) { return receive(fd, b, unix.MSG_PEEK) }

// Discard consumes up to len(b) bytes of a TCP socket without copying them.
func Discard(fd int, b []byte) (int, error) { return receive(fd, b, unix.MSG_TRUNC) }

func receive(fd int, b []byte, flags uintptr) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), flags, 0, 0)
	return result(n, errno)
}

// Write puts bytes into a socket, as many as there is room for, and raises no
// SIGPIPE.
func Write(fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_NOSIGNAL, 0, 0)
	return result(n, errno)
}

// Splice moves up to n bytes from a socket into a pipe or from a pipe into a
// socket.
func Splice(from, to, n int) (int, error) {
	const flags = unix.SPLICE_F_MOVE | unix.SPLICE_F_NONBLOCK
	m, _, errno := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n), flags)
	return result(m, errno)
}

// Pipe makes a pipe that holds size bytes, or as much of that as the kernel
// allows: size is what it got. It fails where that is less than least.
func Pipe(size, least int) (r, w, got int, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return -1, -1, 0, os.NewSyscallError("pipe2", err)
	}
	// EPERM: the limit of the user id (fs.pipe-user-pages-soft) or of a pipe
	// (fs.pipe-max-size).
	for ; size >= least; size /= 2 {
		if got, err = unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, size); err == nil {
			return fds[0], fds[1], got, nil
		}
	}
	Close(fds[0])
	Close(fds[1])
	return -1, -1, 0, os.NewSyscallError("fcntl F_SETPIPE_SZ", err)
}

// Close closes a descriptor.
func Close(fd int) {
	_, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0)
}

// CloseWrite sends a FIN and leaves the other direction open.
func CloseWrite(fd int) error {
	_, _, errno := unix.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), unix.SHUT_WR, 0)
	return failure(errno)
}

// ResetOnClose makes Close send a RST instead of a FIN. It fails only on a
// connection that is already gone.
func ResetOnClose(fd int) {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}

// SetInt is setsockopt(2) of an int.
func SetInt(fd, level, option, value int) error {
	v := int32(value)
	_, _, errno := unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option), uintptr(unsafe.Pointer(&v)), 4, 0)
	return failure(errno)
}

// GetInt is getsockopt(2) of an int.
func GetInt(fd, level, option int) (int, error) {
	v, size := int32(0), uint32(4)
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option), uintptr(unsafe.Pointer(&v)), uintptr(unsafe.Pointer(&size)), 0)
	return int(v), failure(errno)
}

// Quiet is how long a TCP socket has neither sent nor received a byte, to the
// millisecond; 0 on one that is gone and on other sockets. Keepalive and window probes have none.
func Quiet(fd int) time.Duration {
	var info unix.TCPInfo
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, unix.TCP_INFO, uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0
	}
	return time.Duration(min(info.Last_data_sent, info.Last_data_recv)) * time.Millisecond
}

// Drops is how many packets a socket has dropped (SO_MEMINFO), 0 if that is unknown.
func Drops(fd int) int {
	const drops = 8 // SK_MEMINFO_DROPS
	var info [drops + 1]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, _ = unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO, uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	return int(info[drops])
}

// GetAddr is getsockopt(2) of an address.
func GetAddr(fd, level, option int) (netip.AddrPort, error) {
	a := sockaddr{size: sockaddrSize}
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option), uintptr(unsafe.Pointer(&a.b)), uintptr(unsafe.Pointer(&a.size)), 0)
	return a.addrPort(), failure(errno)
}

// SocketError takes and clears the socket's pending error (SO_ERROR), nil if
// there is none.
func SocketError(fd int) error {
	n, err := GetInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && n != 0 {
		err = unix.Errno(n)
	}
	return err
}

// Unacknowledged is the number of bytes sent that the peer has not acknowledged,
// 0 also on a socket that is gone.
func Unacknowledged(fd int) int {
	n := int32(0)
	_, _, _ = unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCOUTQ, uintptr(unsafe.Pointer(&n)))
	return int(n)
}

// Socket makes a TCP socket of IPv6 or IPv4.
func Socket(six bool) (int, error) {
	family := unix.AF_INET
	if six {
		family = unix.AF_INET6
	}
	fd, _, errno := unix.RawSyscall(unix.SYS_SOCKET, uintptr(family), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	return result(fd, errno)
}

// Bind is bind(2).
func Bind(fd int, to netip.AddrPort) error {
	a := newSockaddr(to)
	_, _, errno := unix.RawSyscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&a.b)), uintptr(a.size))
	return failure(errno)
}

// Connect starts to connect (EINPROGRESS). Called again it returns nil or
// EISCONN once connected, EALREADY while under way, or the reason it failed.
func Connect(fd int, to netip.AddrPort) error {
	a := newSockaddr(to)
	_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&a.b)), uintptr(a.size))
	return failure(errno)
}

// Accept takes a connection from a listener's queue.
func Accept(ln int) (fd int, client netip.AddrPort, err error) {
	a := sockaddr{size: sockaddrSize}
	n, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(ln), uintptr(unsafe.Pointer(&a.b)), uintptr(unsafe.Pointer(&a.size)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if fd, err = result(n, errno); err != nil {
		return fd, client, err
	}
	return fd, a.addrPort(), nil
}

// LocalAddr is getsockname(2).
func LocalAddr(fd int) (netip.AddrPort, error) {
	a := sockaddr{size: sockaddrSize}
	_, _, errno := unix.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&a.b)), uintptr(unsafe.Pointer(&a.size)))
	return a.addrPort(), failure(errno)
}

func result(n uintptr, errno unix.Errno) (int, error) {
	if errno != 0 {
		return -1, failure(errno)
	}
	return int(n), nil
}

// ErrAgain is EAGAIN.
var ErrAgain error = unix.EAGAIN

var errInProgress error = unix.EINPROGRESS

// failure is errno as an error. The frequent ones are prepared: to convert one
// anew would allocate.
func failure(errno unix.Errno) error {
	switch errno {
	case 0:
		return nil
	case unix.EAGAIN:
		return ErrAgain
	case unix.EINPROGRESS:
		return errInProgress
	}
	return errno
}
