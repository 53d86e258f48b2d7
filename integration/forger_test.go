package integration

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// forger sends packets with forged headers to the pod.
type forger struct {
	t  *testing.T
	fd int
	to unix.Sockaddr
}

func newForger(t *testing.T, ns *lab.NS, to netip.Addr) *forger {
	t.Helper()
	g := &forger{t: t, to: sockaddr(netip.AddrPortFrom(to, 0))}
	domain := unix.AF_INET
	if to.Is6() {
		domain = unix.AF_INET6
	}
	err := ns.Do(func() (err error) {
		g.fd, err = unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		return os.NewSyscallError("socket", err)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(g.fd) })
	return g
}

func (g *forger) send(from, to netip.Addr, proto byte, payload []byte) {
	packet := aim{Own: from, Dst: to, src: from}.packet(proto, payload)
	if err := uninterrupted("sendto", func() error { return unix.Sendto(g.fd, packet, 0, g.to) }); err != nil {
		g.t.Errorf("forge: %v", err)
	}
}

// tcp sends a segment.
func (g *forger) tcp(from, to netip.AddrPort, seq, ack uint32, flags byte, data []byte) {
	h := make([]byte, 20, 20+len(data))
	binary.BigEndian.PutUint16(h, from.Port())
	binary.BigEndian.PutUint16(h[2:], to.Port())
	binary.BigEndian.PutUint32(h[4:], seq)
	binary.BigEndian.PutUint32(h[8:], ack)
	h[12], h[13], h[14] = 5<<4, flags, 0x10
	h = append(h, data...)
	binary.BigEndian.PutUint16(h[16:], sum(from.Addr(), to.Addr(), unix.IPPROTO_TCP, h))
	g.send(from.Addr(), to.Addr(), unix.IPPROTO_TCP, h)
}

// errors sends ICMP errors as a router does, about segments from the application to the
// client, and from the client to the application as the sidecar sends them on the
// leg.
func (g *forger) errors(client, pod netip.AddrPort, seq uint32) {
	kinds := []struct {
		kind, code byte
		rest       uint32
	}{{3, 0, 0}, {3, 1, 0}, {3, 2, 0}, {3, 3, 0}, {3, 4, 576}, {3, 10, 0}, {3, 13, 0}, {4, 0, 0}, {5, 1, 0}, {11, 0, 0}, {12, 0, 0}}
	proto := byte(unix.IPPROTO_ICMP)
	if pod.Addr().Is6() {
		kinds = kinds[:0]
		for _, k := range [][2]byte{{1, 0}, {1, 1}, {1, 3}, {1, 4}, {1, 5}, {2, 0}, {3, 0}, {4, 1}} {
			kinds = append(kinds, struct {
				kind, code byte
				rest       uint32
			}{k[0], k[1], 1280})
		}
		proto = unix.IPPROTO_ICMPV6
	}
	for _, way := range [][2]netip.AddrPort{{pod, client}, {client, pod}} {
		tcp := make([]byte, 20)
		binary.BigEndian.PutUint16(tcp, way[0].Port())
		binary.BigEndian.PutUint16(tcp[2:], way[1].Port())
		binary.BigEndian.PutUint32(tcp[4:], seq)
		tcp[12], tcp[13] = 5<<4, ackFlag
		quoted := aim{Own: way[0].Addr(), Dst: way[1].Addr(), src: way[0].Addr()}.packet(unix.IPPROTO_TCP, tcp)
		for _, k := range kinds {
			m := []byte{k.kind, k.code, 0, 0}
			m = append(binary.BigEndian.AppendUint32(m, k.rest), quoted...)
			from := client.Addr()
			if pod.Addr().Is4() {
				binary.BigEndian.PutUint16(m[2:], sum(netip.Addr{}, netip.Addr{}, 0, m))
			} else {
				binary.BigEndian.PutUint16(m[2:], sum(from, pod.Addr(), proto, m))
			}
			g.send(from, pod.Addr(), proto, m)
		}
	}
}

// any sends one of each kind.
func (g *forger) any(client, pod netip.AddrPort, seq, ack uint32) {
	if rand.IntN(100) == 0 {
		g.errors(client, pod, seq) // a score of them
		return
	}
	flags := []byte{rst, rst | ackFlag, syn, syn | ackFlag, ackFlag, fin | ackFlag}
	g.tcp(client, pod, seq, ack, flags[rand.IntN(len(flags))], []byte("FLUSHALL\r\n"))
}

// sum is the internet's checksum, with the pseudo header where the addresses are
// given.
func sum(src, dst netip.Addr, proto byte, payload []byte) uint16 {
	all := payload
	if src.IsValid() {
		all = slices.Concat(src.AsSlice(), dst.AsSlice(), []byte{0, proto, byte(len(payload) >> 8), byte(len(payload))}, payload)
	}
	var s uint32
	for i, b := range all {
		s += uint32(b) << (8 * (1 - i&1))
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return ^uint16(s)
}
