package integration

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestOwnPorts: the pod's own outbound connections can use every port of its range, also
// those of clients, as they are or as the application sees them, connected or in
// TIME_WAIT.
func TestOwnPorts(t *testing.T) {
	const first, count = 40_000, 100
	inModes(t, setup{bare: true}, func(t *testing.T, p *pod) {
		own := fmt.Sprint(first, " ", first+count-1)
		if p.mode == contract.ModeTProxy { // where the sidecar takes its ports from
			own = fmt.Sprint(contract.SpoofPortLow, " ", contract.SpoofPortHigh)
		}
		p.Pod.Sysctl("net.ipv4.ip_local_port_range", own)
		p.nginx(t)
		p.start()
		p.inFamilies(t, func(t *testing.T, f family) {
			p.Pod.Sysctl("net.ipv4.ip_local_port_range", own)
			low, high := p.inbound(t, f, first, count)
			if !hasPortRange(t) {
				return // before Linux 6.3 clients take these ports away: see DECISIONS.md
			}
			p.Pod.Sysctl("net.ipv4.ip_local_port_range", fmt.Sprint(low, " ", high))

			server, err := p.Client.Listen("tcp", addr(f.client, 0))
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			for i := low; i <= high; i++ {
				var conn net.Conn
				// The sidecar's check of the pod has one of the ports for a moment.
				lab.Eventually(t, fmt.Sprintf("port %d of %d", i-low+1, high-low+1), func() (err error) {
					conn, err = p.Pod.Dial("tcp", "", server.Addr().String())
					return err
				})
				defer conn.Close()
			}
		})
	})
}

// inbound connects from count ports of the client to nginx, closes every other
// connection, and returns the range of the ports that nginx saw.
func (p *pod) inbound(t *testing.T, f family, first, count int) (low, high uint16) {
	t.Helper()
	low = 65535
	for i := range count {
		from := addrPort(t, addr(f.client, first+i))
		to := addrPort(t, addr(f.pod, webPort))
		var saw netip.AddrPort
		err := p.Client.Do(func() (err error) {
			if i%2 == 0 {
				saw, err = stay(t, from, to)
			} else {
				saw, err = askRaw(from, to, true)
			}
			return err
		})
		if err != nil {
			t.Fatalf("from %s: %v", from, err)
		}
		p.wantSeen(t, saw.String(), from.String())
		low, high = min(low, saw.Port()), max(high, saw.Port())
	}
	return low, high
}

// stay is askRaw on a connection that is open until the test ends.
func stay(t *testing.T, from, to netip.AddrPort) (saw netip.AddrPort, err error) {
	fd, err := rawDial(from, to)
	if err != nil {
		return saw, err
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := rawWrite(fd, "GET / HTTP/1.1\r\nHost: pod\r\n\r\n"); err != nil {
		return saw, err
	}
	buf := make([]byte, 1024)
	n, err := rawRead(fd, buf) // nginx sends so little in one piece
	if err != nil {
		return saw, err
	}
	_, body, _ := strings.Cut(string(buf[:n]), "\r\n\r\n")
	text, err := peer(body)
	if err != nil {
		return saw, err
	}
	return netip.ParseAddrPort(text)
}

// hasPortRange reports whether the kernel has IP_LOCAL_PORT_RANGE.
func hasPortRange(t *testing.T) bool {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	return !errors.Is(unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_LOCAL_PORT_RANGE, 1<<16|1), unix.ENOPROTOOPT)
}
