package intercept

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Matches and targets of xtables, as iptables-nft leaves them in a rule where nft's
// own language lacks them, and as iptables-legacy has them. The kernel's headers in
// linux/netfilter have the structs.

// xtMatch reads a match by its struct. One that it does not know may match or not.
func (m *machine) xtMatch(name string, info []byte) {
	u16 := func(at int) uint16 { return binary.NativeEndian.Uint16(info[at:]) }
	switch {
	case name == "comment":
	case name == "udp", name == "icmp", name == "icmp6", name == "sctp":
		m.narrow(portSet{})
	case name == "tcp" && len(info) >= 12: // struct xt_tcp
		const invSource, invDest, invFlags = 1, 2, 4
		low, high, inv := u16(4), u16(6), info[11]
		m.toPorts(portRange(low, high), inv&invDest != 0)
		if (syn&info[9] == info[10]) == (inv&invFlags != 0) {
			m.narrow(portSet{})
		}
		if u16(0) != 0 || u16(2) != 0xffff || inv&invSource != 0 || info[8] != 0 { // source ports, a TCP option
			m.rule.sure = false
		}
	case name == "multiport" && len(info) >= 48: // struct xt_multiport_v1
		const toPorts = 1
		if info[0] != toPorts {
			m.rule.sure = false // source ports, or either
			return
		}
		var ports portSet
		for i := range min(int(info[1]), 15) {
			low := u16(2 + 2*i)
			high := low
			if isRange := info[32+i] != 0; isRange && i < 14 {
				high = u16(2 + 2*(i+1))
			}
			ports.add(low, high)
		}
		m.toPorts(ports, info[47] != 0)
	default:
		m.rule.sure = false
	}
}

// xtTarget reads a target that ends a packet's way; others change the packet and no
// more.
func (m *machine) xtTarget(name string, revision uint32, info []byte) {
	switch name {
	case "REJECT", "DROP", "QUEUE", "NFQUEUE":
		m.rule.action = actEnd
	case "TPROXY":
		at := 12 // struct xt_tproxy_target_info
		if revision > 0 {
			at = 24 // struct xt_tproxy_target_info_v1
		}
		m.takes("gives", portAt(info, at))
	case "REDIRECT":
		m.xtNAT(revision, info, true)
	case "DNAT":
		m.xtNAT(revision, info, false)
	}
}

// xtNAT reads struct nf_nat_ipv4_multi_range_compat, or nf_nat_range and
// nf_nat_range2, which begin alike.
func (m *machine) xtNAT(revision uint32, info []byte, redirect bool) {
	flagsAt, addrAt, portAtByte := 0, 4, 36
	if revision == 0 && m.family == unix.NFPROTO_IPV4 {
		flagsAt, addrAt, portAtByte = 4, 8, 16
	}
	m.rule.action = actEnd
	if len(info) < portAtByte+2 {
		return
	}
	var to netip.Addr
	if m.family == unix.NFPROTO_IPV4 {
		to = netip.AddrFrom4([4]byte(info[addrAt:]))
	} else {
		to = netip.AddrFrom16([16]byte(info[addrAt:]))
	}
	has := binary.NativeEndian.Uint32(info[flagsAt:])
	if !redirect && has&unix.NF_NAT_RANGE_MAP_IPS != 0 && !m.own(to) && !to.IsLoopback() {
		return
	}
	if has&unix.NF_NAT_RANGE_PROTO_SPECIFIED == 0 {
		portAtByte = len(info)
	}
	m.takes("redirects", portAt(info, portAtByte))
}

// portAt is a port in network order; 0 behind the end.
func portAt(b []byte, at int) uint16 {
	if at+2 > len(b) {
		return 0
	}
	return binary.BigEndian.Uint16(b[at:])
}
