package trace

import (
	"encoding/binary"
	"net/netip"

	mnl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Event is one decision about one packet: that of a rule, or of a base chain's
// policy. Texts are as the kernel has them: any process of the pod with NET_ADMIN
// may have chosen them.
type Event struct {
	Packet  uint32 // tells packets apart, for a while
	In, Out string // interfaces, "" for none
	Header  *Header
	Step
}

// Step is where a packet was and what was decided.
type Step struct {
	Table, Chain string // "inet tproxy_cni", "inbound"
	Hook         Hook   // of the base chain that the packet came from
	Rule         int    // its number in the chain, from 1; 0 for the chain's policy and its end
	Handle       uint64 // the kernel's name of the rule
	Comment      string // the rule's
	Verdict      Verdict
	Target       string // of a jump or goto
}

// Header is what the packet looked like when a base chain got it.
type Header struct {
	Src, Dst netip.AddrPort
	Flags    byte // of TCP
}

// Verdict of a rule or a policy.
type Verdict string

// The verdicts; Continue is that of a rule which only did something.
const (
	Accept   Verdict = "accept"
	Drop     Verdict = "drop"
	Jump     Verdict = "jump"
	Goto     Verdict = "goto"
	Return   Verdict = "return"
	Continue Verdict = "continue"
	Other    Verdict = "other" // stolen, queued
)

// event reads one message of the kernel.
func (t *Tracer) event(m mnl.Message) (e Event, ok bool) {
	if m.Header.Type != unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_TRACE || len(m.Data) < 4 {
		return e, false
	}
	attrs, err := attributes(m.Data[4:])
	if err != nil {
		return e, false
	}
	at := place{m.Data[0], text(attrs[unix.NFTA_TRACE_TABLE]), text(attrs[unix.NFTA_TRACE_CHAIN])}
	e = Event{
		Packet: be32(attrs[unix.NFTA_TRACE_ID]),
		In:     t.links[be32(attrs[unix.NFTA_TRACE_IIF])], Out: t.links[be32(attrs[unix.NFTA_TRACE_OIF])],
		Header: header(attrs[unix.NFTA_TRACE_NETWORK_HEADER], attrs[unix.NFTA_TRACE_TRANSPORT_HEADER]),
		Step:   Step{Table: families[at.family] + " " + at.table, Chain: at.chain, Hook: t.rules.hooks[at]},
	}
	const policy = 1 // NFT_TRACETYPE_POLICY
	if be32(attrs[unix.NFTA_TRACE_TYPE]) == policy {
		e.Verdict, _ = verdict(attrs[unix.NFTA_TRACE_POLICY], nil)
		return e, true
	}
	if handle := attrs[unix.NFTA_TRACE_RULE_HANDLE]; len(handle) == 8 {
		e.Handle = binary.BigEndian.Uint64(handle)
		r := t.rules.rules[at][e.Handle]
		e.Rule, e.Comment = r.number, r.comment
	}
	nested, err := attributes(attrs[unix.NFTA_TRACE_VERDICT])
	e.Verdict, e.Target = verdict(nested[unix.NFTA_VERDICT_CODE], nested[unix.NFTA_VERDICT_CHAIN])
	return e, err == nil
}

func verdict(code, chain []byte) (Verdict, string) {
	switch c := int32(be32(code)); {
	case c == unix.NFT_CONTINUE:
		return Continue, ""
	case c == unix.NFT_JUMP:
		return Jump, text(chain)
	case c == unix.NFT_GOTO:
		return Goto, text(chain)
	case c == unix.NFT_RETURN:
		return Return, ""
	case c&0xff == 0: // NF_DROP; an errno may be in the upper bits
		return Drop, ""
	case c&0xff == 1: // NF_ACCEPT
		return Accept, ""
	}
	return Other, ""
}

// header reads the first bytes of both headers; nil where they are not there.
func header(network, transport []byte) *Header {
	if len(transport) < 14 {
		return nil
	}
	h := &Header{Flags: transport[13]}
	sport, dport := binary.BigEndian.Uint16(transport), binary.BigEndian.Uint16(transport[2:])
	switch {
	case len(network) >= 20 && network[0]>>4 == 4:
		h.Src = netip.AddrPortFrom(netip.AddrFrom4([4]byte(network[12:16])), sport)
		h.Dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte(network[16:20])), dport)
	case len(network) >= 40 && network[0]>>4 == 6:
		h.Src = netip.AddrPortFrom(netip.AddrFrom16([16]byte(network[8:24])), sport)
		h.Dst = netip.AddrPortFrom(netip.AddrFrom16([16]byte(network[24:40])), dport)
	default:
		return nil
	}
	return h
}
