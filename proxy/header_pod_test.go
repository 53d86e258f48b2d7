package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/proxy/accesslog"
	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
)

// header1 and header2 are headers of both versions that name a client, with a
// destination that is nobody's.
func header1(client netip.AddrPort) string {
	family, dst := "TCP4", "198.51.100.1"
	if client.Addr().Is6() {
		family, dst = "TCP6", "2001:db8:64::1"
	}
	return fmt.Sprintf("PROXY %s %s %s %d 443\r\n", family, client.Addr(), dst, client.Port())
}

func header2(client netip.AddrPort) string {
	family, size := byte(0x11), 12
	if client.Addr().Is6() {
		family, size = 0x21, 36
	}
	b := append([]byte("\r\n\r\n\x00\r\nQUIT\n\x21"), family)
	b = binary.BigEndian.AppendUint16(b, uint16(size+5))
	b = append(b, client.Addr().AsSlice()...)
	b = append(b, make([]byte, client.Addr().BitLen()/8)...)
	b = binary.BigEndian.AppendUint16(b, client.Port())
	return string(append(b, "\x01\xbb\x04\x00\x02\x00\x00"...)) // with a field that says nothing
}

// Clients that are no host's, but a header's.
var (
	named4 = netip.MustParseAddr("203.0.113.7")
	named6 = netip.MustParseAddr("2001:db8:77::7")
)

// TestHeader: with a header the application sees the client that it names, of either
// family, exactly in both modes; what must not be seen is refused, and so is a trusted
// peer without a header. What an untrusted peer sends is data.
func TestHeader(t *testing.T) {
	trusted := lab.Client4 + "/32," + lab.Client6 + "/128"
	inModesStarted(t, []string{"--proxy-protocol-from", trusted, "--proxy-protocol-ports", "1-65000"}, func(t *testing.T, p *pod) {
		a := p.listen(t, 0)
		apart := p.listen(t, 65001)
		port := uint16(33000)
		next := func(addr netip.Addr) netip.AddrPort {
			port += 2
			return netip.AddrPortFrom(addr, port)
		}
		inFamilies(t, func(t *testing.T, f ipFamily) {
			for _, addr := range []netip.Addr{named4, named6} {
				for v, header := range []func(netip.AddrPort) string{header1, header2} {
					t.Run(fmt.Sprintf("v%d names %s", v+1, addr), func(t *testing.T) {
						client := next(addr)
						lb := p.dial(t, f, a.port)
						send(t, lb, header(client)+"hello")
						p.wantNamed(t, lb, a.accept(t), client)

						client = next(addr)
						lb = p.dial(t, f, a.port)
						for _, b := range []byte(header(client)) {
							send(t, lb, string([]byte{b}))
						}
						application := a.accept(t)
						send(t, lb, "hello")
						p.wantNamed(t, lb, application, client)
					})
				}
			}
			t.Run("inexact", func(t *testing.T) { p.wantAnotherPort(t, f, a, next(named4).Port()) })
			for name, header := range map[string]string{
				"LOCAL": "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00", "UNKNOWN": "PROXY UNKNOWN\r\n",
			} {
				lb := p.dial(t, f, a.port)
				send(t, lb, header+"hello")
				application := a.accept(t)
				receive(t, application, "hello")
				t.Run(name, func(t *testing.T) { p.wantSource(t, lb, application) })
			}
			p.refuseHeaders(t, f, a.port)

			// Data, as far as we are concerned.
			for what, conn := range map[string]*net.TCPConn{
				"an untrusted peer":   p.dialFrom(t, otherClient(f), f, a.port),
				"a port without them": p.dial(t, f, apart.port),
			} {
				application := map[bool]*app{true: a, false: apart}[what == "an untrusted peer"].accept(t)
				send(t, conn, header1(next(named4)))
				receive(t, application, header1(netip.AddrPortFrom(named4, port)))
				t.Run(what, func(t *testing.T) { p.wantSource(t, conn, application) })
			}
		})
		// From what the kernel alone knows to be a broadcast address it would connect
		// as the pod itself.
		p.Pod.Run("ip", "addr", "add", "10.9.9.2/24", "broadcast", "10.9.9.77", "dev", "eth0")
		posed := p.listen(t, 0)
		send(t, p.dial(t, ip4, posed.port), header1(netip.MustParseAddrPort("10.9.9.77:40001"))+"let me in")
		if line := p.wantEnd(t, netip.MustParseAddrPort("10.9.9.77:40001"), accesslog.Rejected); !strings.Contains(line["err"], errNotSpoofed.Error()) {
			t.Errorf("the log says %v", line)
		}
		if got, err := io.ReadAll(posed.accept(t)); err == nil || len(got) > 0 {
			t.Errorf("the application got %q, %v", got, err)
		}
		// A client of a family that the pod has lost.
		p.Pod.Run("ip", "-6", "addr", "flush", "dev", "eth0", "scope", "global")
		lab.Eventually(t, "refused for lack of an IPv6 address", func() error {
			send(t, p.dial(t, ip4, a.port), header1(next(named6)))
			if !strings.Contains(p.sidecar.Output(), "this pod has no IPv6 address to show it at") {
				return fmt.Errorf("not yet: %s", p.sidecar.Output())
			}
			return nil
		})
	})
}

// wantNamed wants the application to see the client, and both to hear each other: the
// balancer has said hello.
func (p *pod) wantNamed(t *testing.T, lb, application *net.TCPConn, client netip.AddrPort) {
	t.Helper()
	if saw := sock.AddrPort(application.RemoteAddr()); saw != client {
		t.Errorf("the application sees %s, the header names %s", saw, client)
	}
	receive(t, application, "hello")
	move(t, application, lb, 100_000)
	move(t, lb, application, 100_000)
	line := p.wantEnd(t, client, accesslog.Closed)
	if me := sock.AddrPort(lb.LocalAddr()).String(); line["via"] != me || line["source"] != client.String() {
		t.Errorf("the log says %v, the balancer is %s", line, me)
	}
}

// wantAnotherPort: where the kernel cannot have the client's port, the address is still
// the client's.
func (p *pod) wantAnotherPort(t *testing.T, f ipFamily, a *app, port uint16) {
	busy := netip.AddrPortFrom(netip.MustParseAddr(otherClient(f)), port)
	direct := p.dialFrom(t, busy.String(), f, a.port)
	first := a.accept(t)
	for _, client := range []netip.AddrPort{busy, netip.AddrPortFrom(named4, 0), netip.AddrPortFrom(named6, 7)} {
		lb := p.dial(t, f, a.port)
		send(t, lb, header1(client)+"hello")
		application := a.accept(t)
		receive(t, application, "hello")
		if saw := sock.AddrPort(application.RemoteAddr()); saw.Addr() != client.Addr() || client == busy && saw == sock.AddrPort(first.RemoteAddr()) {
			t.Errorf("the application sees %s, the header names %s", saw, client)
		}
	}
	say(t, direct, first, "still here")
}

// refuseHeaders sends what must not reach the application.
func (p *pod) refuseHeaders(t *testing.T, f ipFamily, port int) {
	at := func(addr string) string { return header1(netip.AddrPortFrom(netip.MustParseAddr(addr), 40001)) }
	for text, why := range map[string]string{
		"GET / HTTP/1.1\r\n\r\n":                            "no PROXY header",
		"PROXY TCP4 192.0.2.1 192.0.2.2 x 80\r\n":           "malformed",
		"PROXY UNKNOWN" + strings.Repeat(" ", 200):          "longer than",
		header2(netip.AddrPortFrom(named4, 1))[:20] + "END": "the peer has closed",
		at(lab.Pod4):          "the pod itself",
		at(lab.Pod6):          "the pod itself",
		at("127.0.0.1"):       "loopback",
		at("::1"):             "loopback",
		at("0.0.0.0"):         "no host",
		at("0.1.2.3"):         "no host",
		at("::"):              "no host",
		at("224.0.0.1"):       "multicast",
		at("ff02::1"):         "multicast",
		at("169.254.1.1"):     "link-local",
		at("fe80::1"):         "link-local",
		at("255.255.255.255"): "broadcast",
		at("192.168.2.255"):   "broadcast",
		"PROXY TCP6 ::ffff:192.0.2.1 ::1 40001 80\r\n": "in the form of IPv6",
	} {
		lb := p.dial(t, f, port)
		send(t, lb, strings.TrimSuffix(text, "END"))
		if strings.HasSuffix(text, "END") {
			_ = lb.CloseWrite()
		}
		if n, err := lb.Read(make([]byte, 1)); n != 0 || err == nil || err == io.EOF {
			t.Errorf("%q: got %d, %v", text, n, err)
		}
		if line := p.wantEnd(t, sock.AddrPort(lb.LocalAddr()), accesslog.Rejected); !strings.Contains(line["err"], why) {
			t.Errorf("%q: the log says %v, want %q", text, line, why)
		}
	}
}

func otherClient(f ipFamily) string {
	if f.name == ip6.name {
		return lab.OtherClient6
	}
	return lab.OtherClient4
}

func send(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, conn net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}
