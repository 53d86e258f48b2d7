package lab

import (
	"errors"
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// TCPPair is a connection over loopback: two non-blocking descriptors, closed with
// the test. It needs no root.
func TCPPair(t testing.TB) (fds [2]int) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var d net.Dialer
	d.SetMultipathTCP(false)
	for i, open := range []func() (net.Conn, error){
		func() (net.Conn, error) { return d.DialContext(t.Context(), "tcp", ln.Addr().String()) },
		ln.Accept,
	} {
		conn, err := open()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		raw, err := conn.(*net.TCPConn).SyscallConn()
		if err == nil {
			cerr := raw.Control(func(fd uintptr) { fds[i], err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
			err = errors.Join(cerr, err)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fds[i]) })
	}
	return fds
}

// SocketPair is two connected unix sockets: non-blocking descriptors, closed with
// the test. It needs no root.
func SocketPair(t testing.TB) [2]int {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = unix.Close(fds[0]), unix.Close(fds[1]) })
	return fds
}
