package intercept

import (
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

const (
	// learnedSize bounds how many addresses that came after ADD are learned.
	learnedSize = 1024

	// usurpedFor is a little longer than a client waits before it sends its
	// SYN again, RFC 6298's second.
	usurpedFor = 3 * time.Second

	// usurpedSize is more than the one port that is in it: what has expired
	// counts until the kernel has looked.
	usurpedSize = 16
)

// sets are the named sets of table inet, for rules to refer to.
type sets struct {
	own4, own6 *nftables.Set // the pod's addresses at ADD
	learned4   *nftables.Set // IPv4 addresses that an interface was seen to have since
	usurped    *nftables.Set // nat mode: the proxy port, while another user listens there

	excludePorts, includePorts *nftables.Set
	exclude4, exclude6         *nftables.Set // clients
}

// newSets are the sets, and those of them that c uses with their elements, in
// the order in which they are listed.
func newSets(t *nftables.Table, c Config, own []netip.Addr) (s sets, used []set) {
	add := func(in bool, def nftables.Set, elements []nftables.SetElement) *nftables.Set {
		def.Table, def.ID = t, uint32(len(used)+1)
		if in {
			used = append(used, set{&def, elements})
		}
		return &def
	}
	ports, ip4, ip6 := nftables.TypeInetService, nftables.TypeIPAddr, nftables.TypeIP6Addr
	own4, own6 := byFamily(own)
	exclude4, exclude6 := prefixSpans(c.ExcludeSources)

	s.own4 = add(true, nftables.Set{Name: "own4", KeyType: ip4, Comment: stamp()}, addrs(own4))
	s.own6 = add(true, nftables.Set{Name: "own6", KeyType: ip6}, addrs(own6))
	s.learned4 = add(true, nftables.Set{Name: "learned4", KeyType: ip4, Dynamic: true, Size: learnedSize}, nil)
	s.usurped = add(c.Mode == contract.ModeNAT, nftables.Set{Name: "usurped", KeyType: ports, Dynamic: true, HasTimeout: true, Timeout: usurpedFor, Size: usurpedSize}, nil)
	s.excludePorts = add(len(c.ExcludePorts) > 0, nftables.Set{Name: "exclude_ports", KeyType: ports, Interval: true}, intervals(portSpans(c.ExcludePorts)))
	s.includePorts = add(len(c.IncludePorts) > 0, nftables.Set{Name: "include_ports", KeyType: ports, Interval: true}, intervals(portSpans(c.IncludePorts)))
	s.exclude4 = add(len(exclude4) > 0, nftables.Set{Name: "exclude4", KeyType: ip4, Interval: true}, intervals(exclude4))
	s.exclude6 = add(len(exclude6) > 0, nftables.Set{Name: "exclude6", KeyType: ip6, Interval: true}, intervals(exclude6))
	return s, used
}

func byFamily(list []netip.Addr) (v4, v6 []netip.Addr) {
	for _, a := range list {
		if a.Is4() {
			v4 = append(v4, a)
		} else {
			v6 = append(v6, a)
		}
	}
	return v4, v6
}

func addrs(as []netip.Addr) []nftables.SetElement {
	es := make([]nftables.SetElement, 0, len(as))
	for _, a := range as {
		es = append(es, nftables.SetElement{Key: a.AsSlice()})
	}
	return es
}

// span is a closed interval of set keys, low and high of equal length.
type span struct{ low, high []byte }

func portSpans(ranges []PortRange) []span {
	spans := make([]span, len(ranges))
	for i, r := range ranges {
		spans[i] = span{port(r.Low), port(r.High)}
	}
	return spans
}

// prefixSpans are the prefixes' first and last addresses, by family.
func prefixSpans(prefixes []netip.Prefix) (v4, v6 []span) {
	for _, p := range prefixes {
		low := p.Masked().Addr().AsSlice()
		high := append([]byte(nil), low...)
		for bit := p.Bits(); bit < len(high)*8; bit++ {
			high[bit/8] |= 0x80 >> (bit % 8)
		}
		if p.Addr().Is4() {
			v4 = append(v4, span{low, high})
		} else {
			v6 = append(v6, span{low, high})
		}
	}
	return v4, v6
}

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
