package intercept

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// The ruleset is data: testdata/*.nft say the same in nft's language, and
// README.md gives each rule's reason at length.
//
//	guard.go    what may leave the pod, and what may happen on lo
//	inbound.go  what is handed to the sidecar, and what is exempt
//	closed.go   what reaches a socket at all; the rest is refused
//	frames.go   frames that pass none of these
//	sets.go     the named sets

// ruleset is all of a pod's nftables state for c. own are the addresses that
// the pod's interfaces have now, without those of 127.0.0.0/8 and ::1.
func ruleset(c Config, own []netip.Addr) []table {
	inet := &nftables.Table{Name: contract.Table, Family: nftables.TableFamilyINet}
	s, list := newSets(inet, c, own)
	tables := []table{
		{inet, nil, list, slices.Concat(guard(c, s), inbound(c, s), closed(c, s))},
		{&nftables.Table{Name: contract.Table, Family: nftables.TableFamilyNetdev}, nil, nil, frames(c)},
	}
	for n, t := range tables {
		for i, ch := range t.chains {
			t.chains[i].rules = slices.DeleteFunc(ch.rules, func(r rule) bool { return r.expr == nil })
		}
		tables[n].counters = countersOf(t)
	}
	return tables
}
