package integration

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// TestFastOpen: a request in the SYN, with TCP Fast Open off for the pod's listeners,
// which is the default, and on for all of them.
func TestFastOpen(t *testing.T) {
	inModes(t, setup{bare: true}, func(t *testing.T, p *pod) {
		p.Client.Sysctl("net.ipv4.tcp_fastopen", "5") // without a cookie
		for _, listeners := range []string{"1", "1539"} {
			t.Run("tcp_fastopen="+listeners, func(t *testing.T) {
				p.Pod.Sysctl("net.ipv4.tcp_fastopen", listeners)
				p.start()
				defer p.sidecar.Kill()
				_, nginx := p.nginx(t, addr("0.0.0.0", webPort)+" fastopen=16", addr("::", webPort)+" fastopen=16")
				defer nginx.Kill()
				wire := newCapture(t, p.Node, "client0")
				taken := counter(t, p.Pod, "TcpExtTCPFastOpenPassive")
				p.inFamilies(t, func(t *testing.T, f family) {
					p.wantCurl(t, f, "--tcp-fastopen")
					wire.wantSegment(t, "a request in the SYN", func(s tcpSegment) bool {
						return s.flags&syn != 0 && s.dst == addrPort(t, addr(f.pod, webPort)) && bytes.Contains(s.data, []byte("GET /"))
					})
				})
				if taken = counter(t, p.Pod, "TcpExtTCPFastOpenPassive") - taken; (taken > 0) != (listeners != "1") {
					t.Errorf("%d requests were taken from SYNs", taken)
				}
			})
		}
	})
}

// TestECN: a SYN that negotiates explicit congestion notification is intercepted, and
// packets that a router has marked arrive.
func TestECN(t *testing.T) {
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		p.nginx(t)
		p.Client.Sysctl("net.ipv4.tcp_ecn", "1")
		// Of IPv6 the first 16 bits: nft's "ip6 ecn set" writes the second byte alone, and
		// a rule that does so ends there on Linux 7.2.
		p.Node.Run("nft", `add table inet congested; add chain inet congested c { type filter hook forward priority 0; };
			add rule inet congested c ip ecn ect0 ip ecn set ce; add rule inet congested c ip6 ecn ect0 @nh,0,16 set 0x6030`)
		wire := newCapture(t, p.Node, "client0")
		marked := newCapture(t, p.Client, "eth0")
		p.inFamilies(t, func(t *testing.T, f family) {
			p.wantExact(t, f)
			pod := addrPort(t, addr(f.pod, webPort))
			wire.wantSegment(t, "a SYN that asks", func(s tcpSegment) bool {
				return s.flags&(syn|ece|cwr) == syn|ece|cwr && s.dst == pod
			})
			marked.wantSegment(t, "a SYN-ACK that agrees", func(s tcpSegment) bool {
				return s.flags&(syn|ackFlag|ece|cwr) == syn|ackFlag|ece && s.src == pod
			})
			marked.wantSegment(t, "an answer that was marked", func(s tcpSegment) bool {
				return s.tos&3 == 3 && bytes.Contains(s.data, []byte("200 OK")) && s.src == pod
			})
		})
	})
}

// mptcpOption is the kind of MPTCP's option of TCP.
const mptcpOption = 30

// TestMPTCP: a client that offers MPTCP and an application that would accept it fall back
// to TCP.
func TestMPTCP(t *testing.T) {
	lab.NeedKernel(t, lab.MPTCP)
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		p.nginx(t)
		wire := newCapture(t, p.Node, "client0")
		p.inFamilies(t, func(t *testing.T, f family) {
			d := dialer(f)
			d.SetMultipathTCP(true)
			conn := p.dialWith(t, d, addr(f.pod, webPort))
			saw, err := ask(conn)
			if err != nil {
				t.Fatal(err)
			}
			p.wantSeen(t, saw, conn.LocalAddr().String())

			ln, err := p.Pod.Listen("tcp", addr(f.pod, 9000)) // package net listens for MPTCP
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			conn = p.dialWith(t, d, ln.Addr().String())
			application, err := acceptFrom(ln)
			if err != nil {
				t.Fatal(err)
			}
			defer application.Close()
			if err := errors.Join(tell(conn, application), tell(application, conn)); err != nil {
				t.Error(err)
			}
			p.wantSeen(t, application.RemoteAddr().String(), conn.LocalAddr().String())
			// The client falls back by itself if the server does not accept.
			for _, port := range []int{webPort, 9000} {
				to := addrPort(t, addr(f.pod, port))
				wire.wantSegment(t, "a SYN", func(s tcpSegment) bool { return s.flags&syn != 0 && s.dst == to })
				for _, s := range wire.segments() {
					if s.flags&syn != 0 && s.dst == to && !s.option(mptcpOption) {
						t.Errorf("from %s to %s: a SYN without an offer of MPTCP", s.src, to)
					}
				}
			}
		})
	})
}

// dialer dials from the family's address of the client.
func dialer(f family) net.Dialer {
	return net.Dialer{
		Timeout:   lab.Patience,
		LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(addrOf(f.client), 0)),
	}
}

// dialWith is dial with the test's dialer. The connection has a deadline.
func (p *pod) dialWith(t *testing.T, d net.Dialer, to string) (conn net.Conn) {
	t.Helper()
	err := p.Client.Do(func() (err error) {
		conn, err = d.Dial("tcp", to)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(lab.Patience))
	return conn
}

// TestHeaders: a client whose segments all have IP options or extension headers.
func TestHeaders(t *testing.T) {
	kinds := []struct {
		name          string
		f             family
		level, option int
		value         []byte
	}{
		{"no operation", v4, unix.IPPROTO_IP, unix.IP_OPTIONS, []byte{1, 1, 1, 1}},
		{"record route", v4, unix.IPPROTO_IP, unix.IP_OPTIONS, []byte{7, 15, 4, 15: 0}},
		{"timestamps", v4, unix.IPPROTO_IP, unix.IP_OPTIONS, []byte{68, 20, 5, 0, 19: 0}},
		// Header, then padding, or an unknown option that may be skipped.
		{"hop by hop", v6, unix.IPPROTO_IPV6, unix.IPV6_HOPOPTS, []byte{0, 0, 1, 4, 7: 0}},
		{"unknown hop by hop", v6, unix.IPPROTO_IPV6, unix.IPV6_HOPOPTS, []byte{0, 1, 0x1e, 12, 15: 0}},
		{"destination", v6, unix.IPPROTO_IPV6, unix.IPV6_DSTOPTS, []byte{0, 0, 1, 4, 7: 0}},
		{"unknown destination", v6, unix.IPPROTO_IPV6, unix.IPV6_DSTOPTS, []byte{0, 1, 0x1e, 12, 15: 0}},
	}
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		p.nginx(t)
		for _, k := range kinds {
			t.Run(k.f.name+" "+k.name, func(t *testing.T) {
				wire := newCapture(t, p.Pod, "eth0")
				d := dialer(k.f)
				d.Control = func(_, _ string, c syscall.RawConn) (err error) {
					cerr := c.Control(func(fd uintptr) {
						err = os.NewSyscallError("setsockopt", unix.SetsockoptString(int(fd), k.level, k.option, string(k.value)))
					})
					return errors.Join(cerr, err)
				}
				conn := p.dialWith(t, d, addr(k.f.pod, webPort))
				saw, err := ask(conn)
				if err != nil {
					t.Fatal(err)
				}
				p.wantSeen(t, saw, conn.LocalAddr().String())
				me := addrPort(t, conn.LocalAddr().String())
				wire.wantSegment(t, "a SYN and a request with them", func(s tcpSegment) bool {
					return s.src == me && s.headers && bytes.Contains(s.data, []byte("GET /"))
				})
			})
		}
	})
}
