package intercept

import "github.com/google/nftables"

// rule is one rule and what it does, in the third person and in at most 60
// bytes: "lets uid 7089 open the spoofed leg". The kernel keeps that as the
// rule's comment, `nft list ruleset` shows it, and CHECK names the rule by it;
// no two rules of a chain say the same.
type rule struct {
	does string
	expr words
}

// when is r where it is in use and else no rule.
func (r rule) when(used bool) rule {
	if used {
		return r
	}
	return rule{}
}

// chain is a chain with its rules in order; a base chain where hook is set.
type chain struct {
	name     string
	kind     nftables.ChainType
	hook     *nftables.ChainHook
	priority *nftables.ChainPriority
	device   string
	rules    []rule
}

// set is a named set with its elements at ADD.
type set struct {
	*nftables.Set
	elements []nftables.SetElement
}

// table is one of our tables.
type table struct {
	*nftables.Table
	counters []*nftables.CounterObj
	sets     []set
	chains   []chain
}
