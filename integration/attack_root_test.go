package integration

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// rootAttacks are the attacks of a container's root with NET_RAW.
var rootAttacks = []attack{
	{name: "transparent tcp", from: foreign, run: func(a aim) error {
		return a.tcp(a.transparent(), device(a.Dev), a.bind(), a.connect(a.Dst, discard))
	}},
	{name: "freebind udp", from: foreign, run: func(a aim) error {
		return a.udp(a.freebind(), a.bind(), a.send(a.Dst, discard, payload))
	}},
	{name: "marked udp", from: foreign, run: func(a aim) error {
		if err := a.notIn6(); err != nil {
			return err
		}
		return a.udp(marked(), device(a.Dev), a.bind(), a.send(a.Via, discard, payload))
	}},
	{name: "raw icmp", from: foreign, run: func(a aim) error {
		return a.raw(a.icmp(), a.transparent(), a.bind(), a.send(a.Dst, 0, a.echo()))
	}},
	{name: "raw header", from: foreign, run: func(a aim) error { return a.rawIP(a.packet(unix.IPPROTO_UDP, udpHeader)) }},
	{name: "raw tcp syn", from: foreign, run: func(a aim) error { return a.rawIP(a.packet(unix.IPPROTO_TCP, tcpHeader(0x02))) }},
	{name: "raw tcp ack", from: foreign, run: func(a aim) error { return a.rawIP(a.packet(unix.IPPROTO_TCP, tcpHeader(0x10))) }},
	{name: "marked raw header", from: foreign, run: func(a aim) error {
		if err := a.notIn6(); err != nil {
			return err
		}
		a.Dst = a.Via
		return a.rawIP(a.packet(unix.IPPROTO_TCP, tcpHeader(0x10)), marked(), device(a.Dev))
	}},
	{name: "raw from loopback", from: loopback, run: func(a aim) error {
		return a.rawIP(a.packet(unix.IPPROTO_UDP, udpHeader), device(a.Dev))
	}},
	{name: "raw from link-local", from: linkLocal, run: func(a aim) error {
		return a.rawIP(a.packet(unix.IPPROTO_UDP, udpHeader), device(a.Dev))
	}},
	{name: "later fragment", from: foreign, run: func(a aim) error { return a.rawIP(a.fragment(64), a.undefragmented()...) }},
	{name: "first fragment", from: foreign, run: func(a aim) error { return a.rawIP(a.fragment(0), a.undefragmented()...) }},
	{name: "options", from: foreign, run: func(a aim) error { return a.rawIP(a.extended()) }},
	{name: "unknown protocol", from: foreign, run: func(a aim) error { return a.rawIP(a.packet(253, payload)) }},

	{name: "frame", from: foreign, run: func(a aim) error { return a.frame(nil, a.packet(unix.IPPROTO_UDP, udpHeader)) }},
	{name: "frame from loopback", from: loopback, run: func(a aim) error { return a.frame(nil, a.packet(unix.IPPROTO_UDP, udpHeader)) }},
	{name: "frame from link-local", from: linkLocal, run: func(a aim) error { return a.frame(nil, a.packet(unix.IPPROTO_UDP, udpHeader)) }},
	{name: "frame with options", from: foreign, run: func(a aim) error { return a.frame(nil, a.extended()) }},
	{name: "frame past the queue", from: foreign, run: func(a aim) error {
		return a.frame(nil, a.packet(unix.IPPROTO_UDP, udpHeader), option("PACKET_QDISC_BYPASS", unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1))
	}},
	{name: "frame for lo to forward", from: foreign, run: func(a aim) error {
		a.Dev, a.MAC = "lo", make(net.HardwareAddr, 6)
		return a.frame(nil, a.packet(unix.IPPROTO_UDP, udpHeader))
	}},
	{name: "marked frame", from: foreign, run: func(a aim) error {
		return a.frame(nil, a.packet(unix.IPPROTO_UDP, udpHeader), marked())
	}},
	{name: "frame of a datagram socket", from: foreign, run: func(a aim) error {
		p := a.packet(unix.IPPROTO_UDP, udpHeader)
		return on(unix.AF_PACKET, unix.SOCK_DGRAM, 0, a.toNode(int(a.etherType()), p))
	}},
	{name: "frame that lies to the socket", from: foreign, run: func(a aim) error {
		f := a.ethernet(a.etherType(), a.packet(unix.IPPROTO_UDP, udpHeader))
		return on(unix.AF_PACKET, unix.SOCK_RAW, 0, a.toNode(unix.ETH_P_ARP, f))
	}},
	{name: "frame of the other family", from: foreign, run: func(a aim) error {
		f := a.ethernet(a.etherType(), a.packet(unix.IPPROTO_UDP, udpHeader))
		return on(unix.AF_PACKET, unix.SOCK_RAW, 0, a.toNode(unix.ETH_P_IP+unix.ETH_P_IPV6-int(a.etherType()), f))
	}},
	{name: "obsolete packet socket", from: foreign, run: func(a aim) error {
		return on(unix.AF_INET, unix.SOCK_PACKET, int(swap16(unix.ETH_P_ALL)), step{"sendto", func(fd int) error {
			f := a.ethernet(a.etherType(), a.packet(unix.IPPROTO_UDP, udpHeader))
			return sendtoSpkt(fd, a.Dev, a.etherType(), f)
		}})
	}},
	{name: "frame with a priority tag", from: foreign, run: func(a aim) error {
		return a.frame([]uint16{unix.ETH_P_8021Q, 0}, a.packet(unix.IPPROTO_UDP, udpHeader))
	}},
	{name: "frame with a service tag", from: foreign, run: func(a aim) error {
		return a.frame([]uint16{unix.ETH_P_8021AD, 0}, a.packet(unix.IPPROTO_UDP, udpHeader))
	}},
	{name: "frame with two tags", from: foreign, run: func(a aim) error {
		return a.frame([]uint16{unix.ETH_P_8021AD, 0, unix.ETH_P_8021Q, 0}, a.packet(unix.IPPROTO_UDP, udpHeader))
	}},
	{name: "frame with a vlan", from: foreign, run: func(a aim) error {
		return a.frame([]uint16{unix.ETH_P_8021Q, 5}, a.packet(unix.IPPROTO_UDP, udpHeader))
	}},
	{name: "arp", from: foreign, run: func(a aim) error {
		if err := a.notIn6(); err != nil {
			return err
		}
		return on(unix.AF_PACKET, unix.SOCK_RAW, 0, a.toNode(unix.ETH_P_ARP, a.ethernet(unix.ETH_P_ARP, a.arp())))
	}},
	// With the pod's own source address, so that only the contents are foreign: a
	// ring's frame can be changed after the rules have read it, the kernel writes a
	// checksum wherever the sender wants, and a bridge learns from the frame's
	// source address where to send another host's traffic.
	{name: "own frame from another's hardware address", from: foreign, run: func(a aim) error {
		return a.frame(nil, a.own(unix.IPPROTO_UDP, a.named()))
	}},
	{name: "own frame with a checksum to fill in", from: foreign, run: func(a aim) error {
		header := []byte{1, 0, 0, 0, 0, 0, 20, 0, 6, 0} // struct virtio_net_hdr: needs a checksum, from byte 20 on, into byte 26, IPv4's source
		if !a.Own.Is4() {
			header[6], header[8] = 40, 0
		}
		f := a.ethernet(a.etherType(), a.own(unix.IPPROTO_UDP, a.named()))
		return on(unix.AF_PACKET, unix.SOCK_RAW, 0, option("PACKET_VNET_HDR", unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
			a.toNode(int(a.etherType()), slices.Concat(header, f)))
	}},
	{name: "own frame in a ring", from: foreign, run: func(a aim) error {
		return a.sendRing(a.ethernet(a.etherType(), a.own(unix.IPPROTO_UDP, a.named())))
	}},
	{name: "own arp from another's hardware address", from: foreign, run: func(a aim) error {
		if err := a.notIn6(); err != nil {
			return err
		}
		about := a
		about.src, about.Dst = a.Own, a.src
		return on(unix.AF_PACKET, unix.SOCK_RAW, 0, a.toNode(unix.ETH_P_ARP, a.ethernet(unix.ETH_P_ARP, about.arp())))
	}},

	// Neighbour discovery by a raw socket, with the pod's own source or none.
	{name: "neighbour advertisement", from: foreign, run: func(a aim) error { return a.discovery(136, a.Own) }},
	{name: "router advertisement", from: foreign, run: func(a aim) error { return a.discovery(134, a.Own) }},
	{name: "redirect", from: foreign, run: func(a aim) error { return a.discovery(137, a.Own) }},
	{name: "probe of another's address", from: foreign, run: func(a aim) error { return a.discovery(135, netip.IPv6Unspecified()) }},
	{name: "advertisement behind options", from: foreign, run: func(a aim) error { return a.discovery(136, a.Own, unix.IPPROTO_ICMPV6, 0, 1, 4, 0, 0, 0, 0) }},
	{name: "express data path", from: foreign, run: func(a aim) error {
		if err := a.notIn6(); err != nil {
			return err // the one queue is busy for a while
		}
		return sendXDP(a.ifindex(), a.ethernet(a.etherType(), a.packet(unix.IPPROTO_UDP, udpHeader)))
	}, limit: "an AF_XDP socket gives its frames to the driver, past every hook of the pod"},
}

// forgedMAC is the hardware address of frames that an attack writes itself.
var forgedMAC = []byte{2, 0, 0, 0xba, 0xd0, 1}

// own is a packet from the pod's own address.
func (a aim) own(proto byte, rest []byte) []byte {
	a.src = a.Own
	return a.packet(proto, rest)
}

// named is a UDP packet with the attack's address in its payload.
func (a aim) named() []byte { return append(slices.Clone(udpHeader), a.src.AsSlice()...) }

// discovery is a message of neighbour discovery (RFC 4861) about the attack's
// address, behind hop-by-hop options if there are any.
func (a aim) discovery(kind byte, from netip.Addr, options ...byte) error {
	if a.Own.Is4() {
		return errors.ErrUnsupported
	}
	message := slices.Concat([]byte{kind, 0, 0, 0, 0x60, 0, 0, 0}, a.src.AsSlice(), a.src.AsSlice())
	about := a
	about.src = from
	if len(options) > 0 {
		return a.rawIP(about.packet(unix.IPPROTO_HOPOPTS, append(options, message...)))
	}
	return a.rawIP(about.packet(unix.IPPROTO_ICMPV6, message))
}

func marked() step { return option("SO_MARK", unix.SOL_SOCKET, unix.SO_MARK, contract.Mark) }

func (a aim) transparent() step {
	if a.Own.Is4() {
		return option("IP_TRANSPARENT", unix.IPPROTO_IP, unix.IP_TRANSPARENT, 1)
	}
	return option("IPV6_TRANSPARENT", unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT, 1)
}

func (a aim) freebind() step {
	if a.Own.Is4() {
		return option("IP_FREEBIND", unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
	}
	return option("IPV6_FREEBIND", unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1)
}

// rawIP sends a packet whose IP header is the attacker's.
func (a aim) rawIP(packet []byte, steps ...step) error {
	return a.raw(unix.IPPROTO_RAW, append(steps, a.send(a.Dst, 0, packet))...)
}

var udpHeader = append([]byte{0x30, 0x39, 0, discard, 0, 15, 0xff, 0xff}, payload...)

func tcpHeader(flags byte) []byte {
	return []byte{0x30, 0x39, 0, discard, 1, 1, 1, 1, 1, 1, 1, 1, 0x50, flags, 0xff, 0xff, 0xff, 0xff, 0, 0}
}

// undefragmented keeps conntrack from waiting for the other fragments.
func (a aim) undefragmented() []step {
	if a.Own.Is4() {
		return []step{option("IP_NODEFRAG", unix.IPPROTO_IP, unix.IP_NODEFRAG, 1)}
	}
	return nil
}

// packet is an IP header with what follows.
func (a aim) packet(proto byte, rest []byte) []byte {
	if a.Own.Is4() {
		h := []byte{0x45, 0, 0, byte(20 + len(rest)), 7, 7, 0, 0, 64, proto, 0, 0}
		return slices.Concat(checksummed(slices.Concat(h, a.src.AsSlice(), a.Dst.AsSlice())), rest)
	}
	h := []byte{0x60, 0, 0, 0, 0, byte(len(rest)), proto, 64}
	return slices.Concat(h, a.src.AsSlice(), a.Dst.AsSlice(), rest)
}

// checksummed fills in an IPv4 header's checksum.
func checksummed(h []byte) []byte {
	var sum uint32
	for i := 0; i < len(h); i += 2 {
		sum += uint32(h[i])<<8 | uint32(h[i+1])
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(h[10:], ^uint16(sum))
	return h
}

// fragment is a part of a larger UDP packet; offset is in units of 8 bytes.
func (a aim) fragment(offset uint16) []byte {
	if a.Own.Is4() {
		p := a.packet(unix.IPPROTO_UDP, udpHeader)
		binary.BigEndian.PutUint16(p[6:], 0x2000|offset)
		p[10], p[11] = 0, 0
		checksummed(p[:20])
		return p
	}
	h := []byte{unix.IPPROTO_UDP, 0, 0, 0, 7, 7, 7, 7}
	binary.BigEndian.PutUint16(h[2:], offset<<3|1)
	return a.packet(unix.IPPROTO_FRAGMENT, append(h, udpHeader...))
}

// extended is a UDP packet behind IP options or extension headers.
func (a aim) extended() []byte {
	if a.Own.Is4() {
		h := []byte{0x46, 0, 0, byte(24 + len(udpHeader)), 7, 7, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
		nop := []byte{1, 1, 1, 0}
		return slices.Concat(checksummed(slices.Concat(h, a.src.AsSlice(), a.Dst.AsSlice(), nop)), udpHeader)
	}
	hop := []byte{unix.IPPROTO_DSTOPTS, 0, 1, 4, 0, 0, 0, 0}
	dst := []byte{unix.IPPROTO_UDP, 0, 1, 4, 0, 0, 0, 0}
	return a.packet(unix.IPPROTO_HOPOPTS, slices.Concat(hop, dst, udpHeader))
}

func (a aim) etherType() uint16 {
	if a.Own.Is4() {
		return unix.ETH_P_IP
	}
	return unix.ETH_P_IPV6
}

// frame sends a packet by a packet socket behind tags: types and values.
func (a aim) frame(tags []uint16, packet []byte, steps ...step) error {
	inner := binary.BigEndian.AppendUint16(nil, a.etherType())
	kind := a.etherType()
	if len(tags) > 0 {
		kind = tags[0]
		var words []byte
		for _, w := range tags[1:] {
			words = binary.BigEndian.AppendUint16(words, w)
		}
		packet = slices.Concat(words, inner, packet)
	}
	return on(unix.AF_PACKET, unix.SOCK_RAW, 0, append(steps, a.toNode(int(kind), a.ethernet(kind, packet)))...)
}

func (a aim) ethernet(kind uint16, packet []byte) []byte {
	return slices.Concat(a.MAC, forgedMAC, binary.BigEndian.AppendUint16(nil, kind), packet)
}

func (a aim) toNode(kind int, frame []byte) step {
	return step{"sendto", func(fd int) error {
		to := &unix.SockaddrLinklayer{Protocol: swap16(uint16(kind)), Ifindex: a.ifindex(), Halen: 6}
		copy(to.Addr[:], a.MAC)
		return unix.Sendto(fd, frame, 0, to)
	}}
}

// arp claims the foreign address.
func (a aim) arp() []byte {
	return slices.Concat([]byte{0, 1, 8, 0, 6, 4, 0, 1}, forgedMAC, a.src.AsSlice(), make([]byte, 6), a.Dst.AsSlice())
}

func swap16(v uint16) uint16 { return v<<8 | v>>8 }

// sendtoSpkt sends with a socket of type SOCK_PACKET, whose address type package unix
// lacks: family, device name, protocol.
func sendtoSpkt(fd int, dev string, kind uint16, frame []byte) error {
	sa := struct {
		family uint16
		dev    [14]byte
		kind   uint16
	}{family: unix.AF_INET, kind: swap16(kind)}
	copy(sa.dev[:], dev)
	_, _, errno := unix.Syscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&frame[0])), uintptr(len(frame)),
		0, uintptr(unsafe.Pointer(&sa)), unsafe.Sizeof(sa))
	if errno != 0 {
		return errno
	}
	return nil
}
