package intercept

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	mnl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// probePacket is the SYN whose way is followed: what is known of it.
type probePacket struct {
	family nftables.TableFamily // NFPROTO_IPV4 or NFPROTO_IPV6
	iif    string
	index  uint32
	to     netip.Addr                  // an address of the pod
	own    func(netip.Addr) bool       // reports whether an address is the pod's
	set    func(name string) *knownSet // a set of the rules' table; nil if it cannot be read
}

// register is what a register of the kernel's rule machine holds: known bytes, the
// destination port, or something unknown.
type register struct {
	known []byte
	port  bool
}

// machine reads one rule's expressions.
type machine struct {
	probePacket
	registers map[uint32]register
	rule      seenRule
}

// see is a rule as the packet sees it. expressions are the kernel's, raw: the library
// reads neither all of them nor all of what a pod's processes can make.
func (k probePacket) see(expressions []byte) seenRule {
	m := machine{k, map[uint32]register{}, seenRule{ports: everyPort, sure: true}}
	list, err := mnl.UnmarshalAttributes(expressions)
	if err != nil {
		return seenRule{}
	}
	for _, e := range list {
		if m.rule.ports.empty() {
			break // it does not match
		}
		attrs := nested(e.Data)
		m.eval(cString(attrs[unix.NFTA_EXPR_NAME]), nested(attrs[unix.NFTA_EXPR_DATA]))
	}
	return m.rule
}

// eval reads one expression. What it does not know may match or not.
func (m *machine) eval(name string, a map[uint16][]byte) {
	switch name {
	case "meta":
		m.meta(a)
	case "payload":
		m.payload(a)
	case "ct":
		const stateNew = 1 << 3 // NF_CT_STATE_BIT(IP_CT_NEW)
		m.load(a[unix.NFTA_CT_DREG], register{known: native(stateNew)}, u32(a[unix.NFTA_CT_KEY]) == unix.NFT_CT_STATE)
	case "fib":
		const daddr = unix.NFTA_FIB_F_DADDR
		m.load(a[unix.NFTA_FIB_DREG], register{known: native(unix.RTN_LOCAL)},
			u32(a[unix.NFTA_FIB_RESULT]) == unix.NFT_FIB_RESULT_ADDRTYPE && u32(a[unix.NFTA_FIB_FLAGS])&daddr != 0)
	case "immediate":
		m.immediate(a)
	case "bitwise":
		m.bitwise(a)
	case "cmp":
		m.compare(a)
	case "range":
		m.within(a[unix.NFTA_RANGE_SREG], value(a[unix.NFTA_RANGE_FROM_DATA]), value(a[unix.NFTA_RANGE_TO_DATA]),
			u32(a[unix.NFTA_RANGE_OP]) == unix.NFT_RANGE_NEQ)
	case "lookup":
		m.lookup(a)
	case "match":
		m.xtMatch(cString(a[unix.NFTA_MATCH_NAME]), a[unix.NFTA_MATCH_INFO])
	case "target":
		m.xtTarget(cString(a[unix.NFTA_TARGET_NAME]), u32(a[unix.NFTA_TARGET_REV]), a[unix.NFTA_TARGET_INFO])
	case "redir":
		m.takes("redirects", m.portIn(a[unix.NFTA_REDIR_REG_PROTO_MIN]))
	case "tproxy":
		const regPort = 3 // NFTA_TPROXY_REG_PORT
		m.takes("gives", m.portIn(a[regPort]))
	case "nat":
		m.nat(a)
	case "reject", "queue", "masq":
		m.rule.action = actEnd
	case "counter", "log", "objref", "notrack", "dynset":
	default:
		m.rule.sure = false
		clear(m.registers) // it may have put anything into any of them
	}
}

func (m *machine) takes(verb string, port uint16) {
	m.rule.action, m.rule.taken = actTake, take{verb, port}
}

func (m *machine) immediate(a map[uint16][]byte) {
	if u32(a[unix.NFTA_IMMEDIATE_DREG]) != unix.NFT_REG_VERDICT {
		m.load(a[unix.NFTA_IMMEDIATE_DREG], register{known: value(a[unix.NFTA_IMMEDIATE_DATA])}, true)
		return
	}
	if m.rule.action == actTake {
		return // of tproxy, which leaves the verdict to the rule
	}
	v := nested(nested(a[unix.NFTA_IMMEDIATE_DATA])[unix.NFTA_DATA_VERDICT])
	switch int32(u32(v[unix.NFTA_VERDICT_CODE])) {
	case unix.NFT_JUMP:
		m.rule.action = actJump
	case unix.NFT_GOTO:
		m.rule.action = actGoto
	case unix.NFT_RETURN:
		m.rule.action = actReturn
	case unix.NFT_CONTINUE:
		m.rule.action = actNothing
	default:
		m.rule.action = actEnd // accept or drop
	}
	m.rule.chain = cString(v[unix.NFTA_VERDICT_CHAIN])
}

func (m *machine) compare(a map[uint16][]byte) {
	data, op := value(a[unix.NFTA_CMP_DATA]), u32(a[unix.NFTA_CMP_OP])
	low, high, inverted := data, data, false
	switch op {
	case unix.NFT_CMP_NEQ:
		inverted = true
	case unix.NFT_CMP_LTE, unix.NFT_CMP_GT:
		low, inverted = make([]byte, len(data)), op == unix.NFT_CMP_GT
	case unix.NFT_CMP_GTE, unix.NFT_CMP_LT:
		high, inverted = bytes.Repeat([]byte{0xff}, len(data)), op == unix.NFT_CMP_LT
	}
	m.within(a[unix.NFTA_CMP_SREG], low, high, inverted)
}

// within narrows the rule down to the packets whose register, as much of it as low and
// high have, is from low to high or, inverted, is not.
func (m *machine) within(reg, low, high []byte, inverted bool) {
	switch r, n := m.registers[u32(reg)], len(low); {
	case n != len(high), r.port && n != int(dport.n), !r.port && n > len(r.known): // more than is known
		m.rule.sure = false
	case r.port:
		m.toPorts(portRange(binary.BigEndian.Uint16(low), binary.BigEndian.Uint16(high)), inverted)
	case r.known == nil:
		m.rule.sure = false
	default:
		m.certain((bytes.Compare(low, r.known[:n]) <= 0 && bytes.Compare(r.known[:n], high) <= 0) != inverted)
	}
}

// lookup reads a set; a map, which gives a value or a verdict, is not followed.
func (m *machine) lookup(a map[uint16][]byte) {
	if reg, isMap := a[unix.NFTA_LOOKUP_DREG]; isMap {
		m.load(reg, register{}, true)
		m.rule.sure = false
		return
	}
	r := m.registers[u32(a[unix.NFTA_LOOKUP_SREG])]
	if r.known == nil && !r.port {
		m.rule.sure = false
		return
	}
	const inverted = 1 // NFT_LOOKUP_F_INV
	s, isInverted := m.set(cString(a[unix.NFTA_LOOKUP_SET])), u32(a[unix.NFTA_LOOKUP_FLAGS])&inverted != 0
	n := len(r.known)
	if r.port {
		n = int(dport.n)
	}
	switch {
	case s == nil, s.keyLen() != n && s.keyLen() != 0: // a concatenation: more registers follow
		m.rule.sure = false
	case r.port:
		m.toPorts(s.ports(), isInverted)
	default:
		m.certain(s.has(r.known) != isInverted)
	}
}

// toPorts narrows the rule down to packets to some ports or, inverted, to all others.
func (m *machine) toPorts(ports portSet, inverted bool) {
	if inverted {
		ports = everyPort.less(ports)
	}
	m.narrow(ports)
}

// certain is a condition whose answer is known for every packet.
func (m *machine) certain(met bool) {
	if !met {
		m.narrow(portSet{})
	}
}

func (m *machine) narrow(to portSet) { m.rule.ports = m.rule.ports.and(to) }

// nat takes connections only if they stay in the pod: what is forwarded, to a
// container in the pod, say, does not meet the sidecar's rules.
func (m *machine) nat(a map[uint16][]byte) {
	m.rule.action = actEnd
	if u32(a[unix.NFTA_NAT_TYPE]) != unix.NFT_NAT_DNAT {
		return
	}
	reg, given := a[unix.NFTA_NAT_REG_ADDR_MIN]
	to, ok := netip.AddrFromSlice(m.registers[u32(reg)].known)
	if !given || ok && (m.own(to) || to.IsLoopback()) {
		m.takes("redirects", m.portIn(a[unix.NFTA_NAT_REG_PROTO_MIN]))
	}
}

// portIn is the port that a register holds, 0 if that is not known.
func (m *machine) portIn(reg []byte) uint16 {
	if v := m.registers[u32(reg)].known; len(v) >= 2 {
		return binary.BigEndian.Uint16(v)
	}
	return 0
}
