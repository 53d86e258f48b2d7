package redirect

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Preflight tries mode in a scratch namespace and names what this kernel lacks
// for it; nothing is missing where it can do all. The error is one of the try
// itself, after which nothing is known. It needs CAP_SYS_ADMIN and
// CAP_NET_ADMIN, in a user namespace of one's own will do.
//
// It programs everything but the sysctls: where /proc/sys is read-only, as in
// most containers, that they exist says enough.
func Preflight(mode string) (missing []string, err error) {
	c := Default(mode)
	err = scratch(c.Interface, func(path string) error {
		p, err := open(path)
		if err != nil {
			return err
		}
		defer p.close()
		if err := p.link.LinkSetUp(p.lo); err != nil {
			return wrap("set lo up", err)
		}
		if p.ipv6, err = hasIPv6(p.ns); err != nil {
			return err
		}
		for _, f := range p.families() {
			if err := f.addRules(p.link); err != nil {
				missing = append(missing, "policy routing ("+err.Error()+")")
			} else if err := f.addRoute(p.link); err != nil {
				missing = append(missing, "policy routing ("+err.Error()+")")
			}
		}
		missing = append(missing, probe(p.nft, ruleset(c, nil))...)
		absent, err := absentSysctls(p.ns)
		missing = append(missing, absent...)
		if err != nil || len(missing) > 0 {
			return err
		}
		// The parts work; does the whole?
		if err := p.program(ruleset(c, nil)); err != nil {
			missing = append(missing, "the ruleset as a whole ("+err.Error()+")")
		}
		return nil
	})
	return missing, err
}

// Sysctls are the settings of a pod's namespace that must be 1, as sysctl(8)
// names them.
func Sysctls() []string {
	names := make([]string, len(sysctls))
	for i, key := range sysctls {
		names[i] = strings.ReplaceAll(key, "/", ".")
	}
	return names
}

// WrongSysctls are those of Sysctls that are not 1 in the namespace at path,
// without those of a kernel without IPv6.
func WrongSysctls(path string) (wrong []string, err error) {
	pod, err := getNS(path)
	if err != nil {
		return nil, err
	}
	defer pod.Close()
	have, err := readSysctls(pod)
	for _, s := range have {
		if s.value != "1" {
			wrong = append(wrong, strings.ReplaceAll(s.key, "/", "."))
		}
	}
	return wrong, err
}

func absentSysctls(pod ns.NetNS) (absent []string, err error) {
	err = pod.Do(func(ns.NetNS) error {
		for _, key := range sysctls {
			_, err := os.Stat(sysctlDir + key)
			if errors.Is(err, os.ErrNotExist) {
				absent = append(absent, "sysctl "+strings.ReplaceAll(key, "/", "."))
			} else if err != nil {
				return err
			}
		}
		return nil
	})
	return absent, err
}

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
		for i, ch := range t.chains {
			if ch.hook != nil {
				if err := addBase(conn, chains[i], ch); err != nil {
					missing = append(missing, fmt.Sprintf("nft %s chain of type %s at hook %s (%v)", family, ch.kind, hookName(ch), err))
					continue
				}
			}
			for n, r := range ch.rules {
				conn.AddRule(&nftables.Rule{Table: t.Table, Chain: chains[i], Exprs: r})
				err := conn.Flush()
				in := featuresOf(r)
				if err == nil {
					for _, f := range in {
						works[f] = true
					}
					continue
				}
				refused = append(refused, refusal{in, fmt.Sprintf("rule %d of nft chain %s (%v)", n+1, ch.name, err)})
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
		chains[i] = &nftables.Chain{Table: t.Table, Name: ch.name}
		if ch.hook == nil {
			conn.AddChain(chains[i])
		}
	}
	return chains, conn.Flush()
}

func addBase(conn *nftables.Conn, c *nftables.Chain, ch chain) error {
	policy := nftables.ChainPolicyAccept
	c.Type, c.Hooknum, c.Priority, c.Device, c.Policy = ch.kind, ch.hook, ch.priority, ch.device, &policy
	conn.AddChain(c)
	return conn.Flush()
}

func hookName(ch chain) string {
	if ch.device != "" {
		return "egress"
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
