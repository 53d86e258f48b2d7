package redirect

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The words of nft's language, each as the expressions that nft compiles it
// to, so that ruleset.go reads like testdata/*.nft. They compute in register 1
// and carry the protocol dependency that nft would put before them only where
// ruleset.go does not spell it out (ip, ip6, tcp).

// words is a part of a rule.
type words []expr.Any

const reg1 = 1

func rule(parts ...words) words { return slices.Concat(parts...) }

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

// protocol is ip and ip6 of the netdev family, by EtherType.
func protocol(ethertype uint16) words {
	return words{load(expr.MetaKeyPROTOCOL), compare(expr.CmpOpEq, binaryutil.BigEndian.PutUint16(ethertype))}
}

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
	// arpSaddr is the sender's address in ARP for IPv4 over Ethernet.
	arpSaddr = field{expr.PayloadBaseNetworkHeader, 14, 4}

	dport = field{expr.PayloadBaseTransportHeader, 2, 2}
	flags = field{expr.PayloadBaseTransportHeader, 13, 1}

	// etherType is the frame's own, where meta protocol is what its sender
	// claims.
	etherType = field{expr.PayloadBaseLLHeader, 12, 2}
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

func flagsAre(mask, v byte) words {
	return rule(tcp, words{flags.load(), and([]byte{mask}, []byte{0}), compare(expr.CmpOpEq, []byte{v})})
}

func flagsAreNot(mask, v byte) words {
	return rule(tcp, words{flags.load(), and([]byte{mask}, []byte{0}), compare(expr.CmpOpNeq, []byte{v})})
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

func skuid(uid uint32) words {
	return words{load(expr.MetaKeySKUID), compare(expr.CmpOpEq, native(uid))}
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

// unmarked says that nobody has put any mark on the packet (meta mark 0).
var unmarked = words{load(expr.MetaKeyMARK), compare(expr.CmpOpEq, native(0))}

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

// Set elements.

func addrs(as []netip.Addr) []nftables.SetElement {
	es := make([]nftables.SetElement, 0, len(as))
	for _, a := range as {
		es = append(es, nftables.SetElement{Key: a.AsSlice()})
	}
	return es
}

// span is a closed interval of set keys, low and high of equal length.
type span struct{ low, high []byte }

// intervals are the elements of an interval set in nft's own form: each start,
// each end plus one flagged as an end, and a leading end at zero. The spans
// may overlap.
func intervals(spans []span) []nftables.SetElement {
	if len(spans) == 0 {
		return nil
	}
	spans = merge(spans)
	var es []nftables.SetElement
	if zero := make([]byte, len(spans[0].low)); !slices.Equal(spans[0].low, zero) {
		es = append(es, nftables.SetElement{Key: zero, IntervalEnd: true})
	}
	for _, s := range spans {
		es = append(es, nftables.SetElement{Key: s.low})
		if next, ok := successor(s.high); ok {
			es = append(es, nftables.SetElement{Key: next, IntervalEnd: true})
		}
	}
	return es
}

func merge(spans []span) []span {
	spans = slices.Clone(spans)
	slices.SortFunc(spans, func(a, b span) int { return slices.Compare(a.low, b.low) })
	out := spans[:1]
	for _, s := range spans[1:] {
		last := &out[len(out)-1]
		next, ok := successor(last.high)
		if ok && slices.Compare(s.low, next) > 0 {
			out = append(out, s)
		} else if slices.Compare(s.high, last.high) > 0 {
			last.high = s.high
		}
	}
	return out
}

// successor is b plus one as a big-endian number; not ok after the largest.
func successor(b []byte) (next []byte, ok bool) {
	next = slices.Clone(b)
	for i := len(next) - 1; i >= 0; i-- {
		if next[i]++; next[i] != 0 {
			return next, true
		}
	}
	return nil, false
}
