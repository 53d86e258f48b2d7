package intercept

import (
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The words of nft's language, each as the expressions that nft compiles it
// to, so that the ruleset reads like testdata/*.nft. They compute in register 1
// and carry the protocol dependency that nft would put before them only where
// the ruleset does not spell it out (ip, ip6, tcp).

// words is a part of a rule.
type words []expr.Any

const reg1 = 1

// nft is a whole rule, made of words.
func nft(parts ...words) words { return slices.Concat(parts...) }

func load(key expr.MetaKey) expr.Any { return &expr.Meta{Key: key, Register: reg1} }

func compare(op expr.CmpOp, data []byte) expr.Any {
	return &expr.Cmp{Op: op, Register: reg1, Data: data}
}

func native(v uint32) []byte { return binaryutil.NativeEndian.PutUint32(v) }

func and(mask, xor []byte) expr.Any {
	return &expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: uint32(len(mask)), Mask: mask, Xor: xor}
}

// Matches on what the packet is.

// ip and ip6 say the family where the next word needs it (meta nfproto).
var (
	ip  = words{load(expr.MetaKeyNFPROTO), compare(expr.CmpOpEq, []byte{unix.NFPROTO_IPV4})}
	ip6 = words{load(expr.MetaKeyNFPROTO), compare(expr.CmpOpEq, []byte{unix.NFPROTO_IPV6})}
)

var tcp = words{load(expr.MetaKeyL4PROTO), compare(expr.CmpOpEq, []byte{unix.IPPROTO_TCP})}

// field is a header field of n bytes.
type field struct {
	base      expr.PayloadBase
	offset, n uint32
}

var (
	saddr4 = field{expr.PayloadBaseNetworkHeader, 12, 4}
	daddr4 = field{expr.PayloadBaseNetworkHeader, 16, 4}
	saddr6 = field{expr.PayloadBaseNetworkHeader, 8, 16}
	daddr6 = field{expr.PayloadBaseNetworkHeader, 24, 16}

	sport = field{expr.PayloadBaseTransportHeader, 0, 2}
	dport = field{expr.PayloadBaseTransportHeader, 2, 2}
	flags = field{expr.PayloadBaseTransportHeader, 13, 1}

	icmp6Type = field{expr.PayloadBaseTransportHeader, 0, 1}
)

func (f field) load() expr.Any {
	return &expr.Payload{DestRegister: reg1, Base: f.base, Offset: f.offset, Len: f.n}
}

func (f field) is(v []byte) words    { return words{f.load(), compare(expr.CmpOpEq, v)} }
func (f field) isNot(v []byte) words { return words{f.load(), compare(expr.CmpOpNeq, v)} }

// beginsNot compares the first byte only: 127.0.0.0/8, ff00::/8.
func (f field) beginsNot(b byte) words {
	f.n = 1
	return f.isNot([]byte{b})
}

// within compares a prefix of f.
func (f field) within(p netip.Prefix) words {
	mask := net.CIDRMask(p.Bits(), p.Addr().BitLen())
	return words{f.load(), and(mask, make([]byte, len(mask))), compare(expr.CmpOpEq, p.Masked().Addr().AsSlice())}
}

func (f field) in(s *nftables.Set) words    { return words{f.load(), lookup(s, false)} }
func (f field) notIn(s *nftables.Set) words { return words{f.load(), lookup(s, true)} }

func lookup(s *nftables.Set, invert bool) expr.Any {
	return &expr.Lookup{SourceRegister: reg1, SetName: s.Name, SetID: s.ID, Invert: invert}
}

// TCP flags (RFC 9293, section 3.1).
const (
	fin = 1 << iota
	syn
	rst
	_
	ack
)

func flagsAre(mask, v byte) words { return nft(tcp, andFlagsAre(mask, v)) }

// andFlagsAre is flagsAre for what is known to be TCP.
func andFlagsAre(mask, v byte) words {
	return words{flags.load(), and([]byte{mask}, []byte{0}), compare(expr.CmpOpEq, []byte{v})}
}

func flagsAreNot(mask, v byte) words {
	return nft(tcp, words{flags.load(), and([]byte{mask}, []byte{0}), compare(expr.CmpOpNeq, []byte{v})})
}

// Types of ICMPv6 (RFC 4861): router and neighbour advertisements, neighbour
// solicitations and redirects are the four of 134 to 137.
const (
	routerAdvertisement = 134
	redirect            = 137
)

// icmp6 matches ICMPv6 of the types low to high.
func icmp6(low, high byte) words {
	return words{
		load(expr.MetaKeyL4PROTO), compare(expr.CmpOpEq, []byte{unix.IPPROTO_ICMPV6}),
		icmp6Type.load(), compare(expr.CmpOpGte, []byte{low}), compare(expr.CmpOpLte, []byte{high}),
	}
}

// Matches on where it comes from.

func iifname(name string) words {
	return words{load(expr.MetaKeyIIFNAME), compare(expr.CmpOpEq, ifname(name))}
}

func oifname(name string) words {
	return words{load(expr.MetaKeyOIFNAME), compare(expr.CmpOpEq, ifname(name))}
}

func ifname(name string) []byte {
	return append([]byte(name), make([]byte, unix.IFNAMSIZ-len(name))...)
}

// skuid compares the user that made the packet's socket; it matches nothing, also
// with !=, where the packet has no socket or no process has that open any more.
func skuid(op expr.CmpOp, uid uint32) words {
	return words{load(expr.MetaKeySKUID), compare(op, native(uid))}
}

// present matches when the kernel can load key at all, whatever its value: a
// packet with a socket (skuid) or with a route (rtclassid).
func present(key expr.MetaKey) words {
	return words{
		load(key),
		&expr.Byteorder{SourceRegister: reg1, DestRegister: reg1, Op: expr.ByteorderHton, Len: 4, Size: 4},
		compare(expr.CmpOpGte, native(0)),
	}
}

func marked(m uint32) words {
	return words{load(expr.MetaKeyMARK), and(native(m), native(0)), compare(expr.CmpOpEq, native(m))}
}

func socketMarked(m uint32) words {
	return words{
		&expr.Socket{Key: expr.SocketKeyMark, Register: reg1},
		and(native(m), native(0)), compare(expr.CmpOpEq, native(m)),
	}
}

// socketTransparent matches when the packet has a socket and its
// IP_TRANSPARENT compares to v so: Lte 1 says that there is any socket at all,
// be it a listener, a connection, a request or in TIME_WAIT.
func socketTransparent(op expr.CmpOp, v byte) words {
	return words{&expr.Socket{Key: expr.SocketKeyTransparent, Register: reg1}, compare(op, []byte{v})}
}

// socketWildcard matches when the packet has a socket, neither a request nor in
// TIME_WAIT, and it is (1) a listener on every address or (0) anything else.
func socketWildcard(v byte) words {
	return words{&expr.Socket{Key: expr.SocketKeyWildcard, Register: reg1}, compare(expr.CmpOpEq, []byte{v})}
}

// anySocketWildcard matches when the packet has a socket of that kind at all.
var anySocketWildcard = words{&expr.Socket{Key: expr.SocketKeyWildcard, Register: reg1}, compare(expr.CmpOpLte, []byte{1})}

// fib is the type of an address (RTN_LOCAL and so on), in all or, with a flag,
// only as a route of that one interface has it.
type fib struct{ expr.Fib }

var (
	fibSaddr    = fib{expr.Fib{FlagSADDR: true}}
	fibDaddr    = fib{expr.Fib{FlagDADDR: true}}
	fibSaddrOif = fib{expr.Fib{FlagSADDR: true, FlagOIF: true}}
	fibDaddrOif = fib{expr.Fib{FlagDADDR: true, FlagOIF: true}}
	fibDaddrIif = fib{expr.Fib{FlagDADDR: true, FlagIIF: true}}
)

func (f fib) local(op expr.CmpOp) words {
	f.Register, f.ResultADDRTYPE = reg1, true
	return words{&f.Fib, compare(op, native(unix.RTN_LOCAL))}
}

// Statements.

func verdict(kind expr.VerdictKind, chain string) words {
	return words{&expr.Verdict{Kind: kind, Chain: chain}}
}

var (
	accept  = verdict(expr.VerdictAccept, "")
	drop    = verdict(expr.VerdictDrop, "")
	notrack = words{&expr.Notrack{}}

	rejectWithReset = words{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}
)

// count adds to a named counter, and not to one of the rule's own: the rule stays the
// same however often it is hit.
func count(counter string) words {
	return words{&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: counter}}
}

func jump(chain string) words    { return verdict(expr.VerdictJump, chain) }
func goTo(chain string) words    { return verdict(expr.VerdictGoto, chain) }
func port(p uint16) []byte       { return binaryutil.BigEndian.PutUint16(p) }
func loadPort(p uint16) expr.Any { return &expr.Immediate{Register: reg1, Data: port(p)} }

func setMark(m uint32) words {
	return words{
		load(expr.MetaKeyMARK), and(native(^m), native(m)),
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg1},
	}
}

func redirectTo(p uint16) words {
	return words{loadPort(p), &expr.Redir{
		RegisterProtoMin: reg1, RegisterProtoMax: reg1,
		Flags: unix.NF_NAT_RANGE_PROTO_SPECIFIED,
	}}
}

func tproxyTo(p uint16) words {
	return words{loadPort(p), &expr.TProxy{Family: unix.NFPROTO_UNSPEC, RegPort: reg1}}
}

func add(s *nftables.Set, f field) words {
	return words{f.load(), &expr.Dynset{
		SrcRegKey: reg1, SetName: s.Name, SetID: s.ID, Operation: unix.NFT_DYNSET_OP_ADD,
	}}
}
