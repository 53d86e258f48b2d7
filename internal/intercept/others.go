package intercept

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// OthersMean is what follows from an Other, to stand behind it and a colon: where both
// redirect at the same priority, the one that came last goes first.
const OthersMean = "only one of two interceptors can have them, and clients may be refused"

// Other is a rule of other software that takes new TCP connections which are the
// sidecar's. They do not reach it, or not as its rules expect.
type Other struct {
	Family   string // of the table, as nft has it: "ip", "ip6", "inet"
	Table    string // "nat"
	Chain    string // the base chain: "PREROUTING"
	Priority int    // of the base chain; -100 is that of DNAT

	In   string // the chain with the rule
	Rule int    // its number in that chain, from 1

	Ports string // which connections, to follow a noun: "", " to port 80", " but not to ports 22, 15020"
	Verb  string // what it does with them: "redirects", or "gives" for tproxy
	Port  uint16 // to which port of the pod; 0 if that is not known, or the same

	Legacy bool // it is iptables-legacy's, which nft does not show
}

// String is the rule in words: "table ip nat, chain PREROUTING (priority -100), rule 1
// redirects new connections to port 15006, as istio does".
func (o Other) String() string {
	text := "table " + o.Family + " " + printable.Word(o.Table)
	if o.Legacy {
		text += " of iptables-legacy"
	}
	text += fmt.Sprintf(", chain %s (priority %d), rule %d", printable.Word(o.Chain), o.Priority, o.Rule)
	if o.In != o.Chain {
		text += " of chain " + printable.Word(o.In)
	}
	text += fmt.Sprintf(" %s new connections%s", o.Verb, o.Ports)
	if o.Port == 0 {
		return text + " to another socket of the pod"
	}
	text += fmt.Sprintf(" to port %d", o.Port)
	for _, i := range contract.Interceptors {
		if i.Port == o.Port {
			text += ", as " + i.Name + " does"
		}
	}
	return text
}

// Others finds the rules of other software in the network namespace at path that take
// new TCP connections which come in by the interface of c: redirect, tproxy, and dnat
// to the pod itself, in nftables and in both kinds of iptables, for IPv4 and IPv6.
// What c exempts from interception, and what is forwarded to a container in the pod,
// is not meant. Rules whose conditions are not known count as rules that match.
//
// What a pod has made of rules must not cost a node more than its pods are worth:
// mostSteps, mostAddresses and mostOthers are for the whole call. Behind these it
// returns, with the Others found so far, an error which says that there is more.
//
// Its error is the faults of c, a NoNetNS, or the kernel's. It needs CAP_NET_ADMIN, and
// CAP_SYS_ADMIN to enter a namespace that is not the process's own.
func Others(path string, c Config) ([]Other, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	// No more is opened than is needed in a pod without: each socket costs a thread
	// that enters the namespace.
	p := &pod{}
	var err error
	if p.ns, err = getNS(path); err != nil {
		return nil, err
	}
	defer p.close()
	if err := p.dial(); err != nil {
		return nil, fmt.Errorf("open nftables in %s: %w", printable.Word(path), err)
	}
	return p.others(c)
}

// errTooMany is that some rules have not been looked at.
var errTooMany = errors.New("the rules of other software, or the pod's addresses, are too many to follow them all")

// hooked is another's base chain at prerouting, with the table's rules.
type hooked struct {
	family   nftables.TableFamily
	table    string
	chain    string
	priority int
	nat      bool // of type nat: no chain behind it changes what it has redirected
	legacy   bool
	rules    map[string][][]byte // by chain, as the kernel has them
	see      func(packet probePacket, rule []byte) seenRule
}

func (p *pod) others(c Config) ([]Other, error) {
	hooks, err := p.hooks()
	if err != nil || len(hooks) == 0 {
		return nil, err
	}
	packets, all, err := p.probePackets(c.Interface)
	if err != nil {
		return nil, err
	}
	list, followed := follow(hooks, packets, c, mostSteps, p.elements)
	if !all || !followed {
		err = errTooMany
	}
	return list, err
}

// hooks are other software's base chains at prerouting, in the order of their priority.
func (p *pod) hooks() (list []hooked, err error) {
	tables, err := p.tables(unix.NFPROTO_UNSPEC)
	if err != nil {
		return nil, err
	}
	err = dumpAll(p.raw, unix.NFPROTO_UNSPEC, unix.NFT_MSG_GETCHAIN, func(f nftables.TableFamily, a map[uint16][]byte) {
		hook := nested(a[unix.NFTA_CHAIN_HOOK])
		table := cString(a[unix.NFTA_CHAIN_TABLE])
		if familyNames[f] == "" || table == contract.Table || tables[tableID{f, table}] || len(hook) == 0 ||
			u32(hook[unix.NFTA_HOOK_HOOKNUM]) != unix.NF_INET_PRE_ROUTING {
			return
		}
		list = append(list, hooked{
			family: f, table: table, chain: cString(a[unix.NFTA_CHAIN_NAME]),
			priority: int(int32(u32(hook[unix.NFTA_HOOK_PRIORITY]))), nat: cString(a[unix.NFTA_CHAIN_TYPE]) == "nat",
			see: probePacket.see,
		})
	})
	if err != nil {
		return nil, wrap("list nftables chains", err)
	}
	if err = p.readRules(list); err != nil {
		return nil, err
	}
	legacy, err := p.legacyHooks()
	if err != nil {
		return nil, err
	}
	list = append(list, legacy...)
	slices.SortStableFunc(list, func(a, b hooked) int {
		return cmp.Or(a.priority-b.priority, int(a.family)-int(b.family))
	})
	return list, nil
}

// familyNames are the families of tables that see the pod's connections.
var familyNames = map[nftables.TableFamily]string{
	nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet",
}

// probePackets are SYNs that come in by the pod's interface, one to each address that
// the pod has; all is false if there are more than mostAddresses.
func (p *pod) probePackets(ifname string) (list []probePacket, all bool, err error) {
	if p.link == nil {
		if p.link, err = newHandle(p.ns); err != nil {
			return nil, false, wrap("open rtnetlink", err)
		}
	}
	link, err := p.link.LinkByName(ifname)
	if err != nil {
		return nil, false, fmt.Errorf("find interface %s: %w", printable.Word(ifname), err)
	}
	addrs, err := p.addresses()
	if err != nil {
		return nil, false, err
	}
	own, count := map[netip.Addr]bool{}, map[nftables.TableFamily]int{}
	for _, a := range addrs {
		own[a] = true
		family := nftables.TableFamily(unix.NFPROTO_IPV4)
		if a.Is6() {
			family = unix.NFPROTO_IPV6
		}
		if a.IsLinkLocalUnicast() {
			continue
		}
		if count[family]++; count[family] <= mostAddresses {
			list = append(list, probePacket{
				family: family, iif: ifname, index: uint32(link.Attrs().Index), to: a,
				own: func(o netip.Addr) bool { return own[o] },
			})
		}
	}
	return list, max(count[unix.NFPROTO_IPV4], count[unix.NFPROTO_IPV6]) <= mostAddresses, nil
}

// readRules gives each hook the rules of its table, as the kernel has them: one list
// for all hooks of a table.
func (p *pod) readRules(hooks []hooked) error {
	tables := map[tableID]map[string][][]byte{}
	for _, h := range hooks {
		tables[tableID{h.family, h.table}] = map[string][][]byte{}
	}
	for family := range familyNames {
		if !slices.ContainsFunc(hooks, func(h hooked) bool { return h.family == family }) {
			continue
		}
		err := dumpAll(p.raw, family, unix.NFT_MSG_GETRULE, func(f nftables.TableFamily, a map[uint16][]byte) {
			if rules := tables[tableID{f, cString(a[unix.NFTA_RULE_TABLE])}]; rules != nil {
				chain := cString(a[unix.NFTA_RULE_CHAIN])
				rules[chain] = append(rules[chain], a[unix.NFTA_RULE_EXPRESSIONS])
			}
		})
		if err != nil {
			return fmt.Errorf("read the rules of family %s: %w", familyNames[family], err)
		}
	}
	for i, h := range hooks {
		hooks[i].rules = tables[tableID{h.family, h.table}]
	}
	return nil
}
