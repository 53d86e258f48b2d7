package integration

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// redisPort is where redis listens, which answers unknown commands with an error: an
// injected byte shows.
const redisPort = 6379

func (p *pod) redis(t *testing.T) {
	t.Helper()
	lab.Need(t, "redis-server")
	p.Pod.StartAs(app, "redis-server", "--port", strconv.Itoa(redisPort), "--bind", "*", "-::*",
		"--protected-mode", "no", "--save", "", "--dir", dir(t, appUID)).WaitListen(redisPort)
}

// askRedis returns the peer that redis sees on a connection, as "address:port".
func askRedis(conn net.Conn) (saw string, err error) {
	if err := conn.SetDeadline(time.Now().Add(lab.Patience)); err != nil {
		return "", err
	}
	if _, err := conn.Write([]byte("CLIENT INFO\r\n")); err != nil {
		return "", err
	}
	var answer []byte
	buf := make([]byte, 4096)
	for !strings.HasSuffix(string(answer), "\r\n") || strings.Count(string(answer), "\r\n") < 2 {
		n, err := conn.Read(buf)
		if err != nil {
			return "", fmt.Errorf("%w after %q", err, answer)
		}
		if answer = append(answer, buf[:n]...); answer[0] != '$' {
			return "", fmt.Errorf("redis answers %q", answer)
		}
	}
	return field(string(answer), "addr"), nil
}

// TestForged: an attacker on the path who knows the ports, and in the end also the
// sequence numbers of the spoofed leg, sends from the client's address. No packet
// reaches the leg, and the connection goes on.
func TestForged(t *testing.T) {
	// Not more: in nat mode the leg has the client's ports, so that these are segments of
	// the client's own connection, too, and conntrack takes one in its window for the
	// client's. With 27,000 one connection of forty hung.
	random := lab.Count(2_000)
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		p.redis(t)
		lo := newCapture(t, p.Pod, "lo")
		p.inFamilies(t, func(t *testing.T, f family) {
			forge := newForger(t, p.Node, addrOf(f.pod))
			pod := addrPort(t, addr(f.pod, redisPort))
			conn := p.dial(t, f, redisPort)
			leg := wantRedis(t, conn, netip.AddrPort{})
			for _, from := range []netip.AddrPort{addrPort(t, conn.LocalAddr().String()), leg} {
				for range random / 2 {
					forge.any(from, pod, rand.Uint32(), rand.Uint32())
				}
			}
			wantRedis(t, conn, leg)

			// Several, as conntrack accepts some of the segments as the
			// client's, depending on the two sequence numbers.
			for range 5 {
				conn := p.dial(t, f, redisPort)
				leg := wantRedis(t, conn, netip.AddrPort{})
				last := lo.wantSegment(t, "redis' answer", func(s tcpSegment) bool {
					return s.src == pod && s.dst == leg && len(s.data) > 0
				})
				for _, flags := range []byte{rst, rst | ackFlag, syn, syn | ackFlag, ackFlag | psh, fin | ackFlag} {
					forge.tcp(leg, pod, last.ack, last.next(), flags, []byte("FLUSHALL\r\n"))
				}
				forge.errors(leg, pod, last.seq)
				forge.errors(leg, pod, last.ack) // they may be about either end's segments
				wantRedis(t, conn, leg)
			}
		})
	})
}

// wantRedis checks that redis sees the same peer as before, if before is not empty.
func wantRedis(t *testing.T, conn net.Conn, before netip.AddrPort) netip.AddrPort {
	t.Helper()
	saw, err := askRedis(conn)
	if err != nil {
		t.Fatal(err)
	}
	now := addrPort(t, saw)
	if before.IsValid() && now != before {
		t.Fatalf("seen as %s, before as %s", now, before)
	}
	return now
}

// TestSYNFlood: forged clients fill the queue of half-open connections. Real ones are
// served nevertheless, and the application sees no others.
func TestSYNFlood(t *testing.T) {
	const backlog = 128
	inModes(t, setup{bare: true}, func(t *testing.T, p *pod) {
		p.nginx(t)
		p.Pod.Sysctl("net.core.somaxconn", fmt.Sprint(backlog)) // also of the sidecar's listener
		p.start()
		for _, net := range []string{"198.18.0.0/15", "2001:db8:f::/48"} {
			p.Node.Run("ip", "route", "add", "blackhole", net) // the flood's answers end here
		}
		lo := newCapture(t, p.Pod, "lo")
		p.inFamilies(t, func(t *testing.T, f family) {
			forge := newForger(t, p.Node, addrOf(f.pod))
			cookies := counter(t, p.Pod, "TcpExtSyncookiesSent")
			flood := func() {
				for range max(2*backlog, lab.Count(2_000)) {
					forge.tcp(randomSource(f), addrPort(t, addr(f.pod, webPort)), rand.Uint32(), 0, syn, nil)
				}
			}
			flood()
			for range 5 {
				p.wantExact(t, f)
				flood()
			}
			if counter(t, p.Pod, "TcpExtSyncookiesSent") == cookies {
				t.Error("the queue was not full")
			}
			for _, s := range lo.segments() {
				if s.flags&syn != 0 && s.dst.Port() == webPort && s.src.Addr() != addrOf(v4.client) && s.src.Addr() != addrOf(v6.client) {
					t.Fatalf("the application saw %s", s.src)
				}
			}
			lo.clear()
		})
	})
}

// randomSource is a random address and port to which the node has no route.
func randomSource(f family) netip.AddrPort {
	port, n := uint16(1024+rand.IntN(60_000)), rand.Uint32()
	if f == v4 {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)}), port)
	}
	a := netip.MustParseAddr("2001:db8:f::").As16()
	binary.BigEndian.PutUint32(a[12:], n)
	return netip.AddrPortFrom(netip.AddrFrom16(a), port)
}
