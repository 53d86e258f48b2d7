package integration

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// loRootAttacks open a connection to the application from a foreign address with
// NET_RAW: by frames on lo, which pass no IP hook, and by packets with their own IP
// header.
var loRootAttacks = []attack{
	{name: "frame on lo", from: foreign, run: func(a aim) error {
		a.Dev, a.MAC = "lo", make(net.HardwareAddr, 6)
		return a.frame(nil, a.opening().ip())
	}},
	{name: "frame on lo past the queue", from: foreign, run: func(a aim) error {
		a.Dev, a.MAC = "lo", make(net.HardwareAddr, 6)
		return a.frame(nil, a.opening().ip(), option("PACKET_QDISC_BYPASS", unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1))
	}},
	{name: "marked frame on lo", from: foreign, run: func(a aim) error {
		a.Dev, a.MAC = "lo", make(net.HardwareAddr, 6)
		return a.frame(nil, a.opening().ip(), marked())
	}},
	{name: "raw syn", from: foreign, run: func(a aim) error {
		a.Dst = a.Own
		return a.rawIP(a.opening().ip())
	}},
	{name: "marked raw syn", from: foreign, run: func(a aim) error {
		a.Dst = a.Own
		return a.rawIP(a.opening().ip(), marked())
	}},
}

// segment is a TCP segment between two addresses of one family.
type segment struct {
	from, to netip.AddrPort
	seq, ack uint32
	flags    byte
	data     []byte
}

// opening is a SYN from the attack's address to the application.
func (a aim) opening() segment {
	return segment{from: netip.AddrPortFrom(a.src, 45678), to: netip.AddrPortFrom(a.Own, webPort), seq: 1, flags: 0x02}
}

// ip is the segment in an IP packet, with its checksums.
func (s segment) ip() []byte {
	tcp := make([]byte, 20, 20+len(s.data))
	binary.BigEndian.PutUint16(tcp, s.from.Port())
	binary.BigEndian.PutUint16(tcp[2:], s.to.Port())
	binary.BigEndian.PutUint32(tcp[4:], s.seq)
	binary.BigEndian.PutUint32(tcp[8:], s.ack)
	tcp[12], tcp[13], tcp[14] = 0x50, s.flags, 0xff
	tcp = append(tcp, s.data...)
	src, dst := s.from.Addr().AsSlice(), s.to.Addr().AsSlice()
	pseudo := slices.Concat(src, dst, []byte{0, unix.IPPROTO_TCP, byte(len(tcp) >> 8), byte(len(tcp))})
	binary.BigEndian.PutUint16(tcp[16:], checksum(append(pseudo, tcp...)))
	return aim{src: s.from.Addr(), Own: s.from.Addr(), Dst: s.to.Addr()}.packet(unix.IPPROTO_TCP, tcp)
}

// checksum is the Internet's (RFC 1071).
func checksum(b []byte) uint16 {
	var sum uint32
	for len(b) > 1 {
		sum += uint32(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// parseSegment reads what segment.ip writes.
func parseSegment(packet []byte) (s segment, err error) {
	var src, dst netip.Addr
	switch {
	case len(packet) >= 40 && packet[0] == 0x45 && packet[9] == unix.IPPROTO_TCP:
		src, dst = netip.AddrFrom4([4]byte(packet[12:])), netip.AddrFrom4([4]byte(packet[16:]))
		packet = packet[20:binary.BigEndian.Uint16(packet[2:])]
	case len(packet) >= 60 && packet[0]>>4 == 6 && packet[6] == unix.IPPROTO_TCP:
		src, dst = netip.AddrFrom16([16]byte(packet[8:])), netip.AddrFrom16([16]byte(packet[24:]))
		packet = packet[40 : 40+binary.BigEndian.Uint16(packet[4:])]
	default:
		return s, errors.New("no TCP")
	}
	s.from = netip.AddrPortFrom(src, binary.BigEndian.Uint16(packet))
	s.to = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(packet[2:]))
	s.seq, s.ack, s.flags = binary.BigEndian.Uint32(packet[4:]), binary.BigEndian.Uint32(packet[8:]), packet[13]
	s.data = packet[packet[12]>>4*4:]
	return s, nil
}

// injectArg is the first argument of a test binary that runs in a pod as root
// with NET_RAW and resets the spoofed leg: it captures the sequence number on lo and
// sends a RST from the client's address in every way that it knows.
const injectArg = "inject"

func injectMain(args []string) {
	fd, err := packetSocket("lo")
	if err != nil {
		fmt.Println(err)
		os.Exit(2)
	}
	client := addrOf(args[0])
	fmt.Println("hears")
	buf := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil || n < 14 {
			continue
		}
		s, err := parseSegment(buf[14:n])
		if err != nil || s.from.Addr() != client || len(s.data) == 0 {
			continue
		}
		reset := segment{from: s.from, to: s.to, seq: s.seq + uint32(len(s.data)), ack: s.ack, flags: 0x14}
		about := aim{src: client, Own: s.to.Addr(), Dst: s.to.Addr(), Dev: "lo", MAC: make(net.HardwareAddr, 6)}
		for _, err := range []error{
			about.rawIP(reset.ip()), about.rawIP(reset.ip(), marked()), about.rawIP(reset.ip(), device("lo")),
			about.frame(nil, reset.ip()), about.frame(nil, reset.ip(), marked()),
		} {
			fmt.Println("sent:", err)
		}
		fmt.Println("done")
		return
	}
}

// TestInject: root with NET_RAW in an application's container can capture the spoofed
// leg, but cannot send on it from the client's address.
func TestInject(t *testing.T) {
	lab.Need(t, "nc")
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		p.inFamilies(t, func(t *testing.T, f family) {
			if !p.survives(t, f, 9000) {
				t.Error("the connection was reset")
			}
		})
		for _, chain := range []string{"loopback", "spoofed"} {
			p.Pod.Run("nft", "insert rule inet "+contract.Table+" "+chain+" tcp flags & rst == rst notrack accept")
		}
		p.inFamilies(t, func(t *testing.T, f family) {
			if p.survives(t, f, 9001) {
				t.Error("the attack fails without the rule, too")
			}
		})
	})
}

// survives attacks a connection from nc to nc while they talk.
func (p *pod) survives(t *testing.T, f family, port int) bool {
	t.Helper()
	server := p.hold(t, p.Pod, "nc", "-lv", f.any, fmt.Sprint(port)).WaitListen(port)
	client, say := talker(t, p.Client, "nc", "-s", f.client, f.pod, fmt.Sprint(port))
	say("one\n")
	server.WaitLog("one\n") // relayed: the connection stands
	by := p.hold(t, p.Pod, containerRoot(t).Args(attacker(t), injectArg, f.client)...).WaitLog("hears")
	say("two\n")
	by.WaitLog("done")
	say("three\n")
	alive := false
	lab.Eventually(t, "the third word, or the end of nc", func() error {
		alive = strings.Contains(server.Output(), "three\n")
		select {
		case <-server.Done():
			return nil
		case <-client.Done():
			return nil
		default:
		}
		if !alive {
			return errors.New("neither")
		}
		return nil
	})
	return alive
}
