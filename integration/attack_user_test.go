package integration

import (
	"bytes"
	"errors"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// payload is what attacks send where the contents do not matter: no zeros, and no
// address.
var payload = []byte("spoofed")

// unspecified is a sockaddr of family AF_UNSPEC, which package unix lacks.
func unspecified() unsafe.Pointer { return unsafe.Pointer(new([16]byte)) }

const discard = 9

// userAttacks are the attacks of a process without capabilities.
var userAttacks = []attack{
	{name: "tcp", from: foreign, run: func(a aim) error {
		return a.tcp(a.bind(), a.connect(a.Dst, discard))
	}},
	{name: "tcp on the cable", from: foreign, run: func(a aim) error {
		return a.tcp(device(a.Dev), a.bind(), a.connect(a.Dst, discard))
	}},
	{name: "fast open", from: foreign, run: func(a aim) error {
		return a.tcp(a.bind(), a.sendFlags(a.Dst, discard, payload, unix.MSG_FASTOPEN))
	}},
	{name: "mptcp", from: foreign, needs: &lab.MPTCP, run: func(a aim) error {
		return on(a.domain(), unix.SOCK_STREAM, unix.IPPROTO_MPTCP, a.bind(), a.connect(a.Dst, discard))
	}},
	{name: "accepted socket", from: foreign, run: func(a aim) error {
		if err := a.notIn6(); err != nil {
			return err // it has no route off lo for the mark, whatever the device
		}
		fd, err := a.accepted()
		if err != nil {
			return err
		}
		return with(fd, disconnect, device(a.Dev), a.bindAs(fd), a.connectAs(fd))
	}},
	{name: "udp", from: foreign, run: func(a aim) error {
		return a.udp(a.bind(), a.send(a.Dst, discard, payload))
	}},
	{name: "udp on the cable", from: foreign, run: func(a aim) error {
		return a.udp(device(a.Dev), a.bind(), a.send(a.Dst, discard, payload))
	}},
	{name: "udp in fragments", from: foreign, run: func(a aim) error {
		return a.udp(a.bind(), a.send(a.Dst, discard, bytes.Repeat([]byte("x"), 4000)))
	}},
	{name: "udp with a source per packet", from: foreign, run: func(a aim) error {
		return a.udp(step{"sendmsg", func(fd int) error {
			return unix.Sendmsg(fd, payload, a.pktinfo(), a.sockaddr(a.Dst, discard), 0)
		}})
	}},
	{name: "udp lite", from: foreign, needs: &lab.UDPLite, run: func(a aim) error {
		return on(a.domain(), unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE, a.bind(), a.send(a.Dst, discard, payload))
	}},
	{name: "ping socket", from: foreign, run: func(a aim) error {
		return on(a.domain(), unix.SOCK_DGRAM, a.icmp(), a.bind(), a.send(a.Dst, 0, a.echo()))
	}},
	{name: "udp from loopback", from: loopback, run: func(a aim) error {
		if a.Own.Is4() {
			return errors.ErrUnsupported // off lo the kernel itself refuses it
		}
		return a.udp(device(a.Dev), a.bind(), a.send(a.Dst, discard, payload))
	}},
	{name: "tcp from loopback", from: loopback, run: func(a aim) error {
		if a.Own.Is4() {
			return errors.ErrUnsupported
		}
		return a.tcp(device(a.Dev), a.bind(), a.connect(a.Dst, discard))
	}},
	{name: "udp from link-local", from: linkLocal, run: func(a aim) error {
		return a.udp(device(a.Dev), a.bind(), a.send(a.Dst, discard, payload))
	}},
	{name: "mapped udp", from: foreign, run: func(a aim) error {
		if err := a.notIn6(); err != nil {
			return err
		}
		return on(unix.AF_INET6, unix.SOCK_DGRAM, 0, a.mapped().bind(), a.mapped().send(mapped(a.Dst), discard, payload))
	}},
}

// loAttacks try to reach the application over lo from a foreign source; Dst is
// the application's address.
var loAttacks = []attack{
	{name: "tcp on lo", from: foreign, run: func(a aim) error {
		if err := a.notIn6(); err != nil {
			return err // its route to itself is not on lo
		}
		return a.tcp(device("lo"), a.bind(), a.connect(a.Own, webPort))
	}},
	{name: "tcp", from: foreign, run: func(a aim) error {
		return a.tcp(a.bind(), a.connect(a.Own, webPort))
	}},
	{name: "fast open", from: foreign, run: func(a aim) error {
		return a.tcp(a.bind(), a.sendFlags(a.Own, webPort, payload, unix.MSG_FASTOPEN))
	}},
	{name: "mptcp", from: foreign, needs: &lab.MPTCP, run: func(a aim) error {
		return on(a.domain(), unix.SOCK_STREAM, unix.IPPROTO_MPTCP, a.bind(), a.connect(a.Own, webPort))
	}},
	{name: "accepted socket", from: foreign, run: func(a aim) error {
		fd, err := a.accepted()
		if err != nil {
			return err
		}
		return with(fd, disconnect, a.bindAs(fd), a.connectOwnAs(fd))
	}},
	{name: "simultaneous open", from: foreign, run: func(a aim) error {
		fd, err := a.accepted()
		if err != nil {
			return err
		}
		// Simultaneous open: the pod's own socket and the foreign one connect to
		// each other.
		const here, there = 7001, 7002
		if err := with(fd, disconnect, a.bindToAs(fd, a.Own, here), a.connectToAs(fd, a.src, there)); err != nil {
			return err
		}
		return a.tcp(a.bindTo(a.src, there), a.connect(a.Own, here))
	}},
}

// The accepted socket's listener is dual-stack, so IPv4 addresses are mapped.
func (a aim) as(fd int) aim {
	if domain, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); domain == unix.AF_INET6 && a.Own.Is4() {
		return a.mapped()
	}
	return a
}

func (a aim) mapped() aim {
	a.Own, a.Dst, a.Via, a.src = mapped(a.Own), mapped(a.Dst), mapped(a.Via), mapped(a.src)
	return a
}

func mapped(ip netip.Addr) netip.Addr { return netip.AddrFrom16(ip.As16()) }

func (a aim) bindAs(fd int) step       { return a.as(fd).bind() }
func (a aim) connectAs(fd int) step    { a = a.as(fd); return a.connect(a.Via, discard) }
func (a aim) connectOwnAs(fd int) step { a = a.as(fd); return a.connect(a.Own, webPort) }

func (a aim) bindToAs(fd int, ip netip.Addr, port int) step {
	if a.as(fd).Own != a.Own {
		ip = mapped(ip)
	}
	return a.bindTo(ip, port)
}

func (a aim) connectToAs(fd int, ip netip.Addr, port int) step {
	if a.as(fd).Own != a.Own {
		ip = mapped(ip)
	}
	return a.connect(ip, port)
}

// pktinfo is the control message that gives one packet its source.
func (a aim) pktinfo() []byte {
	if a.Own.Is4() {
		return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: a.src.As4()})
	}
	return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: a.src.As16()})
}

func (a aim) icmp() int {
	if a.Own.Is4() {
		return unix.IPPROTO_ICMP
	}
	return unix.IPPROTO_ICMPV6
}

// echo is an ICMP echo request without a checksum.
func (a aim) echo() []byte {
	if a.Own.Is4() {
		return append([]byte{8, 0, 0, 0, 1, 1, 1, 1}, payload...)
	}
	return append([]byte{128, 0, 0, 0, 1, 1, 1, 1}, payload...)
}
