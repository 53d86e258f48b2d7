package intercept

import (
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// features are the expressions that a kernel can be built without, or whose
// module may be absent, as nft calls them.
var features = []struct {
	name string
	is   func(expr.Any) bool
}{
	{"nft redirect", isA[*expr.Redir]},
	{"nft tproxy", isA[*expr.TProxy]},
	{"nft socket", isA[*expr.Socket]},
	{"nft fib", isA[*expr.Fib]},
	{"nft reject", isA[*expr.Reject]},
	{"nft notrack", isA[*expr.Notrack]},
	{"nft dynamic sets", isA[*expr.Dynset]},
	{"nft objref", isA[*expr.Objref]},
	{"nft meta rtclassid", func(e expr.Any) bool {
		m, ok := e.(*expr.Meta)
		return ok && m.Key == expr.MetaKeyRTCLASSID
	}},
}

func isA[T expr.Any](e expr.Any) bool { _, ok := e.(T); return ok }

// probe programs tables piece by piece and names the pieces that the kernel
// refuses: of a rule, the features that are in no rule that it takes.
func probe(conn *nftables.Conn, tables []table) (missing []string) {
	works := map[string]bool{}
	type refusal struct {
		in   []string
		text string
	}
	var refused []refusal
	for _, t := range tables {
		family := map[nftables.TableFamily]string{nftables.TableFamilyINet: "inet", nftables.TableFamilyNetdev: "netdev"}[t.Family]
		chains, err := probeTable(conn, t)
		if err != nil {
			missing = append(missing, fmt.Sprintf("nft tables of family %s (%v)", family, err))
			continue
		}
		uncounted := probeCounters(conn, t)
		if uncounted != nil {
			missing = append(missing, fmt.Sprintf("nft counter (%v)", uncounted))
		}
		for i, ch := range t.chains {
			if ch.hook != nil {
				conn.AddChain(chains[i])
				if err := conn.Flush(); err != nil {
					missing = append(missing, fmt.Sprintf("nft %s chain of type %s at hook %s (%v)", family, ch.kind, hookName(ch), err))
					continue
				}
			}
			for _, r := range ch.rules {
				if uncounted != nil { // a rule that names a counter would be refused for want of it
					r.expr = slices.DeleteFunc(slices.Clone(r.expr), isA[*expr.Objref])
				}
				conn.AddRule(r.in(chains[i]))
				err := conn.Flush()
				in := featuresOf(r.expr)
				if err == nil {
					for _, f := range in {
						works[f] = true
					}
					continue
				}
				refused = append(refused, refusal{in, fmt.Sprintf("the rule of nft chain %s that %s (%v)", ch.name, r.does, err)})
			}
		}
	}
	for _, r := range refused {
		named := false
		for _, f := range r.in {
			if !works[f] {
				named = true
				missing = append(missing, f)
			}
		}
		if !named {
			missing = append(missing, r.text)
		}
	}
	slices.Sort(missing)
	return slices.Compact(missing)
}

// probeTable adds t's sets and its chains without a hook.
func probeTable(conn *nftables.Conn, t table) ([]*nftables.Chain, error) {
	conn.AddTable(t.Table)
	for _, s := range t.sets {
		if err := conn.AddSet(s.Set, s.elements); err != nil {
			return nil, err
		}
	}
	chains := make([]*nftables.Chain, len(t.chains))
	for i, ch := range t.chains {
		if chains[i] = ch.in(t); ch.hook == nil {
			conn.AddChain(chains[i])
		}
	}
	return chains, conn.Flush()
}

// probeCounters adds t's counters, until the kernel refuses one.
func probeCounters(conn *nftables.Conn, t table) error {
	for _, c := range t.counters {
		conn.AddObj(c)
		if err := conn.Flush(); err != nil {
			return err
		}
	}
	return nil
}

func hookName(ch chain) string {
	switch {
	case ch.hook == nftables.ChainHookEgress:
		return "egress"
	case ch.device != "":
		return "ingress"
	}
	switch *ch.hook {
	case unix.NF_INET_PRE_ROUTING:
		return "prerouting"
	case unix.NF_INET_LOCAL_IN:
		return "input"
	case unix.NF_INET_LOCAL_OUT:
		return "output"
	case unix.NF_INET_FORWARD:
		return "forward"
	}
	return fmt.Sprint(*ch.hook)
}

func featuresOf(r words) (in []string) {
	for _, f := range features {
		if slices.ContainsFunc(r, f.is) {
			in = append(in, f.name)
		}
	}
	return in
}
