package trace

import (
	"slices"
	"strings"
)

// Packet is a packet's way through the rules, from a socket to the wire or back;
// one that is sent on lo is one packet, out and in.
type Packet struct {
	In, Out string // interfaces; both for one on lo
	Header         // when it was first seen
	Now     Header // when it was last seen: NAT may have changed it
	Steps   []Step

	ids  []uint32
	hook Hook // of the base chain that it is in
}

// Kind is the packet's name in a handshake: SYN, SYN-ACK or RST.
func (h Header) Kind() string {
	switch {
	case h.Flags&rst != 0:
		return "RST"
	case h.Flags&(syn|ack) == syn|ack:
		return "SYN-ACK"
	}
	return "SYN"
}

// Collect adds events to the packets that are known, in order of their first event.
// Those of the table that marks packets only make a packet known.
func Collect(packets []*Packet, events []Event) []*Packet {
	for _, e := range events {
		p := find(packets, e)
		if p == nil {
			if e.Header == nil {
				continue // its beginning was lost
			}
			p = &Packet{Header: *e.Header}
			packets = append(packets, p)
		}
		if !slices.Contains(p.ids, e.Packet) {
			p.ids = append(p.ids, e.Packet)
		}
		if e.In != "" {
			p.In = e.In
		}
		if e.Out != "" {
			p.Out = e.Out
		}
		if e.Header != nil {
			p.Now = *e.Header
		}
		if !strings.HasPrefix(e.Table, "inet "+TablePrefix) {
			if e.Hook == (Hook{}) {
				e.Hook = p.hook
			}
			p.hook = e.Hook
			p.Steps = append(p.Steps, e.Step)
		}
	}
	return packets
}

// find returns the packet of an event: by the kernel's id, of which the newest
// counts, or, for one that comes back on lo with another id, by what it looks like.
func find(packets []*Packet, e Event) *Packet {
	for _, p := range slices.Backward(packets) {
		same := e.Header == nil || e.Header.Src == p.Src && e.Header.Flags == p.Flags // else the id is used again
		if slices.Contains(p.ids, e.Packet) {
			if same {
				return p
			}
			break
		}
	}
	for _, p := range slices.Backward(packets) {
		if e.In == "lo" && p.Out == "lo" && p.In == "" && e.Header != nil && *e.Header == p.Now {
			return p
		}
	}
	return nil
}
