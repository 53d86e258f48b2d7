package sock

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// TestOptions: the options of both legs. No byte waits for a full segment, and a peer
// that is gone is noticed.
func TestOptions(t *testing.T) {
	ns := lab.New(t, "pod").Up()

	// Half-closed and idle, a connection in nat mode lives as long as
	// conntrack hears of it in time.
	const keepIdle = 30
	var forgets int
	if _, err := fmt.Sscan(ns.Run("sysctl", "-n", "net.netfilter.nf_conntrack_tcp_timeout_close_wait"), &forgets); err != nil {
		t.Fatal(err)
	}
	if 2*keepIdle > forgets {
		t.Errorf("the first probe after %d s: conntrack forgets after %d s", keepIdle, forgets)
	}
	var conns [2]*net.TCPConn
	err := ns.Do(func() error {
		ln, err := Listen(t.Context(), netip.MustParseAddrPort("0.0.0.0:5000"))
		if err != nil {
			return err
		}
		defer ln.Close()
		if conns[0], err = Connect(t.Context(), netip.MustParseAddrPort("127.0.0.2:7000"), netip.MustParseAddrPort("127.0.0.1:5000")); err != nil {
			return err
		}
		conns[1], err = ln.AcceptTCP()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range conns {
		defer c.Close()
	}
	type option struct{ level, option, want int }
	keepAlive := []option{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, keepIdle},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 10},
	}
	noDelay := option{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1}
	for i, want := range [][]option{
		{noDelay, {unix.SOL_SOCKET, unix.SO_KEEPALIVE, 0}}, // to the application: it stays in the pod
		append(keepAlive, noDelay),
	} {
		raw, err := conns[i].SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range want {
			_ = raw.Control(func(fd uintptr) {
				if got, err := unix.GetsockoptInt(int(fd), o.level, o.option); err != nil || got != o.want {
					t.Errorf("socket %d: option %d of level %d is %d (%v), want %d", i, o.option, o.level, got, err, o.want)
				}
			})
		}
	}
}
