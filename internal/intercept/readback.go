package intercept

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	mnl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// tableFamilies are the families of our tables, with the tables' names as nft
// shows them.
var tableFamilies = []struct {
	id   nftables.TableFamily
	name string
}{
	{nftables.TableFamilyINet, "inet " + contract.Table},
	{nftables.TableFamilyNetdev, "netdev " + contract.Table},
}

// ownSets hold the pod's addresses at ADD, addressSets also those learned
// later; their elements are checkOwn's business.
var (
	ownSets     = []string{"own4", "own6"}
	addressSets = append(ownSets, "learned4")
)

// tableState is a table as the kernel shows it: opaque, but equal for equal
// tables of one kernel.
type tableState struct {
	dormant  bool                    // the kernel has taken its chains off their hooks
	counters map[string]expr.Counter // by name
	sets     map[string]string       // by name; the elements of constant sets
	chains   map[string]chainState
}

type chainState struct {
	hook  string
	rules []ruleState
}

// ruleState is a rule: what it does to a packet, in which counter it counts that, and
// how its comment puts it.
type ruleState struct{ expr, counter, comment string }

func (t tableState) counterNames() []string { return slices.Sorted(maps.Keys(t.counters)) }
func (t tableState) setNames() []string     { return slices.Sorted(maps.Keys(t.sets)) }
func (t tableState) chainNames() []string   { return slices.Sorted(maps.Keys(t.chains)) }

// readTables reads our tables, by the name that tableFamilies gives them.
func (p *pod) readTables() (map[string]tableState, error) {
	out := map[string]tableState{}
	for _, f := range tableFamilies {
		tables, err := p.tables(f.id)
		if err != nil {
			return nil, err
		}
		dormant, there := tables[tableID{f.id, contract.Table}]
		if !there {
			continue
		}
		state := tableState{dormant, nil, map[string]string{}, map[string]chainState{}}
		if state.counters, err = p.readCounters(f.id); err != nil {
			return nil, fmt.Errorf("read table %s: %w", f.name, err)
		}
		if err := readChains(p.raw, f.id, state.chains); err != nil {
			return nil, fmt.Errorf("read table %s: %w", f.name, err)
		}
		if err := p.readSets(f.id, state.sets); err != nil {
			return nil, fmt.Errorf("read table %s: %w", f.name, err)
		}
		out[f.name] = state
	}
	return out, nil
}

func (p *pod) readSets(family nftables.TableFamily, into map[string]string) error {
	nft, err := p.library()
	if err != nil {
		return err
	}
	list, err := nft.GetSets(&nftables.Table{Name: contract.Table, Family: family})
	if err != nil {
		return err
	}
	for _, s := range list {
		into[s.Name] = ""
		if s.Dynamic || slices.Contains(ownSets, s.Name) {
			continue
		}
		elements, err := nft.GetSetElements(s)
		if err != nil {
			return err
		}
		var keys []string
		for _, e := range elements {
			keys = append(keys, fmt.Sprintf("%x %v", e.Key, e.IntervalEnd))
		}
		slices.Sort(keys)
		into[s.Name] = strings.Join(keys, ",")
	}
	return nil
}

// readChains reads chains and rules as raw attributes, because the nftables
// library parses neither every expression that we use nor a chain's device.
func readChains(conn *mnl.Conn, family nftables.TableFamily, into map[string]chainState) error {
	err := dump(conn, family, unix.NFT_MSG_GETCHAIN, unix.NFTA_CHAIN_TABLE, func(attrs map[uint16][]byte) {
		name := cString(attrs[unix.NFTA_CHAIN_NAME])
		hook := fmt.Sprintf("%x %x %x", attrs[unix.NFTA_CHAIN_TYPE], attrs[unix.NFTA_CHAIN_HOOK], attrs[unix.NFTA_CHAIN_POLICY])
		into[name] = chainState{hook: hook}
	})
	if err != nil {
		return err
	}
	return dump(conn, family, unix.NFT_MSG_GETRULE, unix.NFTA_RULE_TABLE, func(attrs map[uint16][]byte) {
		name := cString(attrs[unix.NFTA_RULE_CHAIN])
		c := into[name]
		rule := ruleState{comment: comment(attrs[unix.NFTA_RULE_USERDATA])}
		rule.expr, rule.counter = splitCounter(attrs[unix.NFTA_RULE_EXPRESSIONS])
		c.rules = append(c.rules, rule)
		into[name] = c
	})
}

// splitCounter returns a rule's expressions without those that refer to a named
// counter, and the latter.
func splitCounter(expressions []byte) (others, counter string) {
	list, err := mnl.UnmarshalAttributes(expressions)
	if err != nil {
		return string(expressions), ""
	}
	for _, e := range list {
		attrs, err := mnl.UnmarshalAttributes(e.Data)
		if err == nil && len(attrs) > 0 && attrs[0].Type == unix.NFTA_EXPR_NAME && cString(attrs[0].Data) == "objref" {
			counter += string(e.Data)
		} else {
			others += string(e.Data)
		}
	}
	return others, counter
}

// device is the interface that the namespace has been programmed for, as its
// netdev chain knows it or, without that, chain input; empty where there is none or the
// interface is gone.
func (p *pod) device() (name string, err error) {
	err = dump(p.raw, nftables.TableFamilyNetdev, unix.NFT_MSG_GETCHAIN, unix.NFTA_CHAIN_TABLE, func(attrs map[uint16][]byte) {
		hook, err := mnl.UnmarshalAttributes(attrs[unix.NFTA_CHAIN_HOOK])
		if err != nil {
			return // a chain without a hook
		}
		for _, a := range hook {
			if dev := cString(a.Data); a.Type == unix.NFTA_HOOK_DEV && dev != "lo" {
				name = dev
			}
		}
	})
	if err != nil {
		return "", wrap("read the device of table netdev "+contract.Table, err)
	}
	if name == "" {
		if name, err = p.inputDevice(); err != nil || name == "" {
			return "", err
		}
	}
	if _, err := p.link.LinkByName(name); err != nil {
		return "", nil
	}
	return name, nil
}

// inputDevice is the interface that a rule of chain input compares with, as those of
// each version do; empty where there is none.
func (p *pod) inputDevice() (name string, err error) {
	err = dump(p.raw, nftables.TableFamilyINet, unix.NFT_MSG_GETRULE, unix.NFTA_RULE_TABLE, func(attrs map[uint16][]byte) {
		if cString(attrs[unix.NFTA_RULE_CHAIN]) != "input" {
			return
		}
		expressions, _ := splitCounter(attrs[unix.NFTA_RULE_EXPRESSIONS])
		if v, ok := compared(expressions, unix.IFNAMSIZ); ok && cString(v) != "lo" {
			name = cString(v)
		}
	})
	return name, wrap("read the device of table inet "+contract.Table, err)
}

// comment is a rule's comment in its user data.
func comment(udata []byte) string { return textIn(udata, userdata.TypeComment) }

// textIn is a text in user data: fields of a type, a length and as many bytes. Any
// process of the pod with NET_ADMIN may have written them, so they can be cut short,
// for which the library's own reader panics.
func textIn(udata []byte, which userdata.Type) string {
	for len(udata) >= 2 {
		kind, rest := userdata.Type(udata[0]), udata[2:]
		n := min(int(udata[1]), len(rest))
		if kind == which {
			return cString(rest[:n])
		}
		udata = rest[n:]
	}
	return ""
}

// Comment is the comment of a rule, of its user data as the kernel has it.
func Comment(udata []byte) string { return comment(udata) }
