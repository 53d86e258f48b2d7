package intercept

import (
	"bytes"

	"golang.org/x/sys/unix"
)

// What is known of the packet, as a rule's expressions load it.

// load puts a value into a register, or something unknown.
func (m *machine) load(reg []byte, v register, known bool) {
	if !known {
		v = register{}
	}
	m.registers[u32(reg)] = v
}

func (m *machine) meta(a map[uint16][]byte) {
	if a[unix.NFTA_META_SREG] != nil {
		return // it sets something
	}
	values := map[uint32][]byte{
		unix.NFT_META_L4PROTO: {unix.IPPROTO_TCP},
		unix.NFT_META_NFPROTO: {byte(m.family)},
		unix.NFT_META_IIF:     native(m.index),
		unix.NFT_META_IIFNAME: ifname(m.iif),
	}
	v, known := values[u32(a[unix.NFTA_META_KEY])]
	m.load(a[unix.NFTA_META_DREG], register{known: v}, known)
}

func (m *machine) payload(a map[uint16][]byte) {
	if a[unix.NFTA_PAYLOAD_SREG] != nil {
		return // it changes the packet
	}
	base, offset, n := u32(a[unix.NFTA_PAYLOAD_BASE]), int(u32(a[unix.NFTA_PAYLOAD_OFFSET])), int(u32(a[unix.NFTA_PAYLOAD_LEN]))
	header := make([]byte, 20) // of TCP: a SYN
	header[flags.offset] = syn
	protocol, to := 9, int(daddr4.offset)
	if m.family == unix.NFPROTO_IPV6 {
		protocol, to = 6, int(daddr6.offset)
	}
	daddr := m.to.AsSlice()
	var v register
	switch {
	case base == unix.NFT_PAYLOAD_NETWORK_HEADER && offset == protocol && n == 1:
		v.known = []byte{unix.IPPROTO_TCP}
	case base == unix.NFT_PAYLOAD_NETWORK_HEADER && offset >= to && offset+n <= to+len(daddr):
		v.known = daddr[offset-to:][:n]
	case base == unix.NFT_PAYLOAD_TRANSPORT_HEADER && offset == int(dport.offset) && n == int(dport.n):
		v.port = true
	case base == unix.NFT_PAYLOAD_TRANSPORT_HEADER && offset == int(flags.offset) && n == 1:
		v.known = header[offset:][:n]
	}
	m.load(a[unix.NFTA_PAYLOAD_DREG], v, true)
}

func (m *machine) bitwise(a map[uint16][]byte) {
	from, mask, xor := m.registers[u32(a[unix.NFTA_BITWISE_SREG])].known, value(a[unix.NFTA_BITWISE_MASK]), value(a[unix.NFTA_BITWISE_XOR])
	known := from != nil && len(mask) == len(from) && len(xor) == len(from)
	to := bytes.Clone(from)
	for i := range to {
		if known {
			to[i] = from[i]&mask[i] ^ xor[i]
		}
	}
	m.load(a[unix.NFTA_BITWISE_DREG], register{known: to}, known)
}
