package integration

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// TestOddAddresses: clients with addresses that programs may take for another kind.
func TestOddAddresses(t *testing.T) {
	odd := map[family][]string{
		v4: {
			"192.0.2.1",       // the sidecar's own source when it looks whether it is ready
			"0.1.2.3",         // "this network"
			"10.1.0.0",        // the first of a network
			"10.1.255.255",    // and the last
			"100.64.0.1",      // shared by providers
			"169.254.169.254", // link-local
			"198.18.0.1",      // for benchmarks
			"240.0.0.1",       // reserved
			"255.255.255.254",
		},
		v6: {
			"2001:db8::1",        // as 192.0.2.1
			"2001:db8:7::",       // the routers' anycast address of a network
			"::2",                // next to ::1
			"::192.0.2.9",        // IPv4-compatible
			"64:ff9b::192.0.2.9", // of NAT64
			"2002:c000:209::1",   // 6to4
			"2001:0:c000:209::1", // Teredo
			"100::1",             // discard-only
			"fc00::1",
			"fec0::1", // site-local
			"3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
		},
	}
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		p.nginx(t)
		p.inFamilies(t, func(t *testing.T, f family) {
			length := map[family]string{v4: "/32", v6: "/128"}[f]
			for _, ip := range odd[f] {
				p.Client.Addr("eth0", ip+length)
				p.Node.Route(ip+length, f.client)
			}
			for _, ip := range odd[f] {
				p.wantExactAt(t, ip, addr(f.pod, webPort))
			}
		})
	})
}

// TestLowPort: a client with a privileged port, as NFS has, is seen with its address;
// in nat mode also with its port, if the pod allows all users such ports.
func TestLowPort(t *testing.T) {
	lab.Need(t, "curl")
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		p.nginx(t)
		p.inFamilies(t, func(t *testing.T, f family) {
			port := 700
			see := func() string {
				t.Helper()
				port++ // the one before is in TIME_WAIT
				out, err := p.curl(f, "--local-port", fmt.Sprint(port), "http://"+addr(f.pod, webPort)+"/")
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				saw, err := peer(out)
				if err != nil {
					t.Fatal(err)
				}
				return saw
			}
			p.Pod.Sysctl("net.ipv4.ip_unprivileged_port_start", "1024")
			if saw := addrPort(t, see()); saw.Addr() != addrOf(f.client) || saw.Port() < 1024 {
				t.Errorf("seen as %s", saw)
			}
			p.Pod.Sysctl("net.ipv4.ip_unprivileged_port_start", "0")
			p.wantSeen(t, see(), addr(f.client, port))
		})
	})
}

// TestFanInPort: one port of a client connected to several ports of the pod at once.
// The address is exact for all, the port in nat mode for the first one.
func TestFanInPort(t *testing.T) {
	ports := []int{8001, 8002, 8003, 8004}
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		var listen []string
		for _, port := range ports {
			listen = append(listen, addr("0.0.0.0", port), addr("::", port))
		}
		p.nginx(t, listen...)
		p.inFamilies(t, func(t *testing.T, f family) {
			from := addr(f.client, 40_001)
			for i, port := range ports {
				conn := p.dialFrom(t, from, addr(f.pod, port))
				saw := addrPort(t, p.askOn(t, conn))
				t.Logf("%s, connection %d: the application sees %s", p.mode, i+1, saw)
				if i == 0 {
					p.wantSeen(t, saw.String(), from)
				} else if saw.Addr() != addrOf(f.client) {
					t.Errorf("connection %d: the application sees %s", i+1, saw)
				}
			}
		})
	})
}

// dialFrom connects from a port that other connections of the client may have, and
// keeps the connection until the end of the test.
func (p *pod) dialFrom(t *testing.T, from, to string) net.Conn {
	t.Helper()
	return p.dialWith(t, net.Dialer{
		Timeout:   lab.Patience,
		LocalAddr: net.TCPAddrFromAddrPort(addrPort(t, from)),
		Control: func(_, _ string, c syscall.RawConn) (err error) {
			cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
			return errors.Join(cerr, err)
		},
	}, to)
}

// TestListenOnLeg: an application listens on the port of a spoofed leg, which in nat
// mode is the client's. It can with SO_REUSEADDR, which servers set, and cannot
// without, as on the port of any other connection of the pod. The leg is unaffected.
func TestListenOnLeg(t *testing.T) {
	lab.Need(t, "socat")
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		p.nginx(t)
		p.inFamilies(t, func(t *testing.T, f family) {
			conn := p.dial(t, f, webPort)
			_ = conn.SetDeadline(time.Now().Add(lab.Patience))
			saw := p.askOn(t, conn)
			port := int(addrPort(t, saw).Port())
			listen := map[family]string{v4: "TCP4-LISTEN:%d", v6: "TCP6-LISTEN:%d"}[f]
			tell := `SYSTEM:echo $SOCAT_PEERADDR $SOCAT_PEERPORT`

			out, err := p.Pod.TryAs(app, "socat", fmt.Sprintf(listen, port), tell)
			if err == nil || !strings.Contains(out, "Address already in use") {
				t.Errorf("without SO_REUSEADDR: %v\n%s", err, out)
			}
			server := p.Pod.StartAs(app, "socat", fmt.Sprintf(listen, port)+",fork,reuseaddr", tell).WaitListen(port)
			defer server.Kill()
			p.wantTold(t, f, port)
			if now := p.askOn(t, conn); now != saw {
				t.Errorf("the leg was %s and is %s", saw, now)
			}
		})
	})
}

// wantTold checks that a program that prints its peer's address and port prints the
// client's.
func (p *pod) wantTold(t *testing.T, f family, port int) {
	t.Helper()
	conn := p.dial(t, f, port)
	_ = conn.SetDeadline(time.Now().Add(lab.Patience))
	told, err := io.ReadAll(conn)
	saw, perr := peer(strings.NewReplacer("[", "", "]", "").Replace(string(told)))
	if err != nil || perr != nil {
		t.Errorf("told %q: %v, %v", told, err, perr)
		return
	}
	p.wantSeen(t, saw, conn.LocalAddr().String())
}
