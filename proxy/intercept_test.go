package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/proxy/accesslog"
	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
)

// TestRefused: no application, as a probe of the kubelet must learn. The plugin's
// rules refuse before the sidecar where nothing listens; an application that
// is reached by another's address refuses in the sidecar's dial.
func TestRefused(t *testing.T) {
	inModes(t, func(t *testing.T, p *pod) {
		inFamilies(t, func(t *testing.T, f ipFamily) {
			const port = 4711
			p.wantRefused(t, f, port)
			// A listener in the way of interception, but not of the dial.
			p.Pod.Run("nft", fmt.Sprintf("add table inet lab; add chain inet lab refuse { type filter hook input priority 10; }; "+
				"flush chain inet lab refuse; add rule inet lab refuse iifname lo tcp dport %d reject with tcp reset", port))
			p.listen(t, port)
			client := p.wantRefused(t, f, port)
			line := p.wantEnd(t, client, accesslog.Refused)
			if !strings.Contains(line["err"], unix.ECONNREFUSED.Error()) {
				t.Errorf("the log says %q", line["err"])
			}
		})
	})
}

// TestUnreachable: an application that does not answer.
func TestUnreachable(t *testing.T) {
	inModes(t, func(t *testing.T, p *pod) {
		const port = 4711
		p.Pod.Sysctl("net.ipv4.tcp_syn_retries", "1") // three seconds
		p.Pod.Run("nft", fmt.Sprintf("add table inet lab; add chain inet lab swallow { type filter hook input priority 10; }; "+
			"add rule inet lab swallow iifname lo tcp dport %d drop", port))
		p.listen(t, port)
		client := p.wantRefused(t, ip4, port)
		line := p.wantEnd(t, client, accesslog.Unreachable)
		if !strings.Contains(line["err"], "timed out") {
			t.Errorf("the log says %q", line["err"])
		}
	})
}

// TestNoRelay: the sidecar connects no client to itself, from outside or inside, and
// its admin port is reached directly.
func TestNoRelay(t *testing.T) {
	inModes(t, func(t *testing.T, p *pod) {
		inFamilies(t, func(t *testing.T, f ipFamily) {
			client := p.wantRefused(t, f, contract.ProxyPort)
			p.wantEnd(t, client, accesslog.Rejected)

			for _, to := range []string{f.lo, f.pod} {
				p.wantEnd(t, wantRefused(t, p.Pod, to, addr(to, contract.ProxyPort)), accesslog.Rejected)
			}

			conn := p.dial(t, f, contract.AdminPort)
			fmt.Fprint(conn, "GET /healthz HTTP/1.0\r\n\r\n")
			if answer, err := io.ReadAll(conn); err != nil || !strings.Contains(string(answer), "200 OK") {
				t.Errorf("admin: %q, %v", answer, err)
			}
		})
	})
}

// TestOwn: the pod's connections to itself are not intercepted; those that come
// back through a Service are, from the address that the node gave them.
func TestOwn(t *testing.T) {
	inModes(t, func(t *testing.T, p *pod) {
		p.Node.Run("nft", fmt.Sprintf(`
			table inet service {
				chain to { type nat hook prerouting priority dstnat; ip daddr 203.0.113.1 dnat ip to %[1]s; ip6 daddr 2001:db8:1::1 dnat ip6 to %[2]s; }
				chain back { type nat hook postrouting priority srcnat; ip saddr %[1]s ip daddr %[1]s masquerade; ip6 saddr %[2]s ip6 daddr %[2]s masquerade; }
			}`, lab.Pod4, lab.Pod6))
		for _, tt := range []struct{ to, from string }{
			{"127.0.0.1", "127.0.0.1"},
			{"::1", "::1"},
			{lab.Pod4, lab.Pod4},
			{lab.Pod6, lab.Pod6},
			{"203.0.113.1", lab.Gateway4},
			{"2001:db8:1::1", lab.Gateway6},
		} {
			a := p.listen(t, 0)
			conn, err := p.Pod.Dial("tcp", "", addr(tt.to, a.port))
			if err != nil {
				t.Errorf("to %s: %v", tt.to, err)
				continue
			}
			application := a.accept(t)
			say(t, patient(t, conn), application, "hello")
			if got := sock.AddrPort(application.RemoteAddr()).Addr().String(); got != tt.from {
				t.Errorf("to %s: the application sees %s, want %s", tt.to, got, tt.from)
			}
		}
	})
}

// TestLinkLocal: a neighbour on an IPv4 link is served like any client; IPv6's,
// whose address means nothing beyond the link, is refused.
func TestLinkLocal(t *testing.T) {
	inModes(t, func(t *testing.T, p *pod) {
		p.Node.Addr("pod0", "169.254.7.1/16", "fe80::7:1/64")
		p.Pod.Run("ip", "addr", "add", "fe80::7:2/64", "dev", "eth0", "nodad")
		p.apply(p.config()) // the rules know the address
		p.Pod.Run("ip", "route", "add", "169.254.0.0/16", "dev", "eth0")
		a := p.listen(t, 0)
		dial := func(from, to string) (conn net.Conn, err error) {
			d := net.Dialer{Timeout: lab.Patience, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))}
			err = p.Node.Do(func() (err error) {
				conn, err = d.Dial("tcp", addr(to, a.port))
				return err
			})
			return conn, err
		}
		conn, err := dial("169.254.7.1", lab.Pod4)
		if err != nil {
			t.Fatal(err)
		}
		application := a.accept(t)
		move(t, patient(t, conn), application, 1<<20)
		if got := sock.AddrPort(application.RemoteAddr()).Addr().String(); got != "169.254.7.1" {
			t.Errorf("the application sees %s", got)
		}
		if conn, err := dial("fe80::7:1%pod0", "fe80::7:2%pod0"); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("from fe80::7:1: %v (%v), want a refusal", conn, err)
		}
	})
}

// TestPortRefused: where the kernel refuses the client's port as a source, the
// address stays and the port changes.
func TestPortRefused(t *testing.T) {
	p := newPod(t, contract.ModeNAT)
	inFamilies(t, func(t *testing.T, f ipFamily) {
		a := p.listen(t, 8080)
		var fallback netip.AddrPort
		for _, tt := range []struct {
			name string
			port int
		}{
			{"EACCES: a privileged port", 80},
			{"EADDRINUSE: the sidecar's own port", contract.ProxyPort},
			{"EADDRINUSE: the application's own port", 8080},
		} {
			client := p.dialFrom(t, addr(f.client, tt.port), f, a.port)
			application := a.accept(t)
			say(t, client, application, tt.name)
			fallback = sock.AddrPort(application.RemoteAddr())
			if fallback.Addr().String() != f.client || int(fallback.Port()) == tt.port {
				t.Errorf("%s: the application sees %s", tt.name, fallback)
			}
		}
		// EADDRNOTAVAIL: the port that was a fallback is a client's own now.
		client := p.dialFrom(t, fallback.String(), f, a.port)
		application := a.accept(t)
		say(t, client, application, "again")
		if got := sock.AddrPort(application.RemoteAddr()); got == fallback || got.Addr() != fallback.Addr() {
			t.Errorf("the application sees %s", got)
		}
	})
}

// TestSynCookies: with cookies there is no request socket, and the last packet of
// the handshake makes the connection.
func TestSynCookies(t *testing.T) {
	inModes(t, func(t *testing.T, p *pod) {
		p.Pod.Sysctl("net.ipv4.tcp_syncookies", "2")
		inFamilies(t, func(t *testing.T, f ipFamily) {
			client, application := p.pair(t, f)
			p.wantSource(t, client, application)
			move(t, client, application, 1<<20)
			move(t, application, client, 1<<20)
			p.wantEnd(t, sock.AddrPort(client.LocalAddr()), accesslog.Closed)
		})
	})
}

// TestFanIn: one port of one client towards two ports of the pod at once.
func TestFanIn(t *testing.T) {
	inModes(t, func(t *testing.T, p *pod) {
		inFamilies(t, func(t *testing.T, f ipFamily) {
			var clients, applications []*net.TCPConn
			for range 5 {
				a := p.listen(t, 0)
				clients = append(clients, p.dialReusing(t, f, 40_000, a.port))
				applications = append(applications, a.accept(t))
			}
			for i := range clients {
				say(t, clients[i], applications[i], fmt.Sprint("to the application ", i))
				say(t, applications[i], clients[i], fmt.Sprint("to the client ", i))
				if got := sock.AddrPort(applications[i].RemoteAddr()).Addr().String(); got != f.client {
					t.Errorf("application %d sees %s", i, got)
				}
			}
			for i := range clients {
				move(t, clients[i], applications[i], 1<<20)
			}
		})
	})
}

// dialReusing connects from a port that other connections of the client have.
func (p *pod) dialReusing(t *testing.T, f ipFamily, from, to int) *net.TCPConn {
	t.Helper()
	source := netip.AddrPortFrom(netip.MustParseAddr(f.client), uint16(from))
	ctx, cancel := context.WithTimeout(t.Context(), lab.Patience)
	defer cancel()
	var conn net.Conn
	err := p.Client.Do(func() (err error) {
		conn, err = sock.Connect(ctx, source, netip.MustParseAddrPort(addr(f.pod, to)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return patient(t, conn)
}

// TestClash: a client that connects from the very ports which the sidecar uses
// towards the application. Each such connection is refused at once or works,
// and those that were there before do not notice.
func TestClash(t *testing.T) {
	p := newPod(t, contract.ModeTProxy)
	inFamilies(t, func(t *testing.T, f ipFamily) {
		a := p.listen(t, 0)
		var clients, applications []*net.TCPConn
		for range 20 {
			clients = append(clients, p.dial(t, f, a.port))
			applications = append(applications, a.accept(t))
		}
		for i, application := range applications {
			leased := application.RemoteAddr().String()
			conn, err := p.Client.Dial("tcp", leased, addr(f.pod, a.port))
			switch {
			case errors.Is(err, unix.ECONNREFUSED):
			case err != nil:
				t.Errorf("%s: %v", leased, err)
			default:
				say(t, patient(t, conn), a.accept(t), "another")
			}
			say(t, clients[i], application, "still here")
			say(t, application, clients[i], "so am I")
		}
		for i := range clients {
			move(t, clients[i], applications[i], 1<<16)
			move(t, applications[i], clients[i], 1<<16)
		}
	})
}

// TestClashAhead: the client's connections come from the whole of the sidecar's
// range while the sidecar is leasing from it.
func TestClashAhead(t *testing.T) {
	p := newPod(t, contract.ModeTProxy)
	inFamilies(t, func(t *testing.T, f ipFamily) {
		a := p.listen(t, 0).echo()
		first := p.dial(t, f, a.port)
		exchange(t, first, "one")
		leased := 0
		for _, s := range p.sockets(t) {
			if s.LocalPort == a.port && s.State == 1 && s.RemotePort <= contract.SpoofPortHigh {
				leased = s.RemotePort
			}
		}
		// The next ports in turn, each of which the client takes first.
		served := 0
		for port := leased + 1; port <= leased+40; port++ {
			conn, err := p.Client.Dial("tcp", addr(f.client, port), addr(f.pod, a.port))
			if errors.Is(err, unix.ECONNREFUSED) {
				continue
			}
			if err != nil {
				t.Errorf("port %d: %v", port, err)
				continue
			}
			exchange(t, patient(t, conn), fmt.Sprint("from ", port))
			served++
		}
		if served < 20 {
			t.Errorf("%d of 40 served", served)
		}
		exchange(t, first, "two")
	})
}

// TestClashBehind: the next port in turn belongs to a connection of the client
// that is over, but whose socket is in TIME_WAIT. It answers in the application's
// place, and the client must not notice.
func TestClashBehind(t *testing.T) {
	p := newPod(t, contract.ModeTProxy)
	inFamilies(t, func(t *testing.T, f ipFamily) {
		a := p.listen(t, 0)
		p.dial(t, f, a.port)
		leased := sock.AddrPort(a.accept(t).RemoteAddr()).Port()
		for range 5 {
			lingers := netip.AddrPortFrom(netip.MustParseAddr(f.client), leased+2)
			client := p.dialFrom(t, lingers.String(), f, a.port)
			application := a.accept(t)
			move(t, application, client, 1)
			move(t, client, application, 1)
			p.wantEnd(t, lingers, accesslog.Closed)

			client = p.dial(t, f, a.port)
			application = a.accept(t)
			say(t, client, application, "hello")
			leased = sock.AddrPort(application.RemoteAddr()).Port()
		}
	})
}

func (p *pod) sockets(t *testing.T) []lab.Socket {
	t.Helper()
	all, err := p.Pod.Sockets()
	if err != nil {
		t.Fatal(err)
	}
	return all
}
