package redirect

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

const mark = contract.Mark

// later4Size bounds how many addresses that came after ADD are learned.
const later4Size = 1024

// set is a named set with its elements at ADD.
type set struct {
	*nftables.Set
	elements []nftables.SetElement
}

// chain is a chain with its rules in order; a base chain where hook is set.
type chain struct {
	name     string
	kind     nftables.ChainType
	hook     *nftables.ChainHook
	priority *nftables.ChainPriority
	device   string
	rules    []words
}

// table is one of our tables: what testdata/*.nft say in nft's language.
type table struct {
	*nftables.Table
	sets   []set
	chains []chain
}

// ruleset is all of a pod's nftables state for c. own are the addresses that
// the pod's interfaces have now, without those of 127.0.0.0/8 and ::1.
func ruleset(c Config, own []netip.Addr) []table {
	return []table{inetTable(c, own), netdevTable(c, own)}
}

// sets gathers a table's sets while its rules are written.
type sets struct {
	table *nftables.Table
	list  []set
	id    uint32
}

func (s *sets) add(def nftables.Set, elements []nftables.SetElement) *nftables.Set {
	s.id++
	def.Table, def.ID = s.table, s.id
	s.list = append(s.list, set{&def, elements})
	return &def
}

func (s *sets) own(own []netip.Addr) (own4, own6 *nftables.Set) {
	var v4, v6 []netip.Addr
	for _, a := range own {
		if a.Is4() {
			v4 = append(v4, a)
		} else {
			v6 = append(v6, a)
		}
	}
	return s.add(nftables.Set{Name: "own4", KeyType: nftables.TypeIPAddr}, addrs(v4)),
		s.add(nftables.Set{Name: "own6", KeyType: nftables.TypeIP6Addr}, addrs(v6))
}

// addresses are the sets that hold the pod's own: those at ADD, and IPv4 ones
// that were learned since.
type addresses struct{ own4, own6, later4 *nftables.Set }

func inetTable(c Config, own []netip.Addr) table {
	t := &nftables.Table{Name: contract.Table, Family: nftables.TableFamilyINet}
	s := &sets{table: t}
	own4, own6 := s.own(own)
	later4 := s.add(nftables.Set{Name: "later4", KeyType: nftables.TypeIPAddr, Dynamic: true, Size: later4Size}, nil)
	a := addresses{own4, own6, later4}
	exemptions := chain{name: "exempt", rules: exempt(c, s)}
	return table{t, s.list, slices.Concat(guard(c, a), inbound(c, a), []chain{exemptions}, closed(c, a))}
}

func guard(c Config, a addresses) []chain {
	return []chain{
		// The guard: what leaves has a source of the pod's own, whatever its
		// mark and whoever sent it.
		{
			"output", nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityRaw, "",
			[]words{
				rule(oifname("lo"), goTo("loopback")),
				rule(ip, saddr4.in(a.own4), accept),
				rule(ip6, saddr6.in(a.own6), accept),
				rule(fibSaddrOif.local(expr.CmpOpEq), accept),
				rule(ip6, saddr6.isNot(netip.IPv6Loopback().AsSlice()), fibSaddr.local(expr.CmpOpEq), accept),
				rule(ip, saddr4.in(a.later4), accept),
				rule(ip, saddr4.is(netip.IPv4Unspecified().AsSlice()), accept),
				rule(ip6, saddr6.is(netip.IPv6Unspecified().AsSlice()), accept),
				drop,
			},
		},
		// Within the pod: replies of the application to its client, then what
		// is foreign at one end, then the pod talking to itself.
		{name: "loopback", rules: []words{
			rule(marked(mark), flagsAreNot(syn|ack, syn), notrack, accept),
			rule(ip, daddr4.notIn(a.own4), daddr4.notIn(a.later4), daddr4.beginsNot(127), fibDaddrOif.local(expr.CmpOpEq), drop),
			rule(ip6, daddr6.notIn(a.own6), daddr6.beginsNot(0xff), fibDaddr.local(expr.CmpOpNeq), drop),
			rule(ip, saddr4.notIn(a.own4), saddr4.notIn(a.later4), saddr4.beginsNot(127), fibSaddrOif.local(expr.CmpOpEq), goTo("spoofed")),
			rule(ip6, saddr6.notIn(a.own6), fibSaddr.local(expr.CmpOpNeq), goTo("spoofed")),
		}},
		// The spoofed leg: only the proxy's uid may open it. Later segments
		// may come from a closed socket, which has no uid any more.
		{name: "spoofed", rules: []words{
			rule(flagsAre(syn|ack, syn), skuid(c.ProxyUID), setMark(mark), notrack, accept),
			rule(flagsAre(syn|ack, syn), drop),
			rule(tcp, setMark(mark), notrack, accept),
			drop,
		}},
	}
}

// newConnection is a SYN and nothing else.
var newConnection = flagsAre(fin|syn|rst|ack, syn)

// inbound hands new connections to the sidecar, as the mode has it.
func inbound(c Config, a addresses) []chain {
	own := ownDestination(a)
	if c.Mode == contract.ModeNAT {
		return []chain{redirectIn(c), {name: "inbound", rules: append(own,
			rule(tcp, socketTransparent(expr.CmpOpLte, 1), redirectTo(c.ProxyPort)),
		)}}
	}
	other := flagsAreNot(fin|syn|rst|ack, syn)
	return []chain{divertIn(c), {name: "inbound", rules: append(own,
		rule(newConnection, socketTransparent(expr.CmpOpLte, 1), tproxyTo(c.ProxyPort), accept),
		rule(other, socketTransparent(expr.CmpOpEq, 1), accept),
		rule(other, socketTransparent(expr.CmpOpLte, 1), tproxyTo(c.ProxyPort), accept),
	)}}
}

func closed(c Config, a addresses) []chain {
	intercepted := rule(tcp, dport.is(port(c.ProxyPort)), accept)
	if c.Mode == contract.ModeTProxy {
		intercepted = rule(tcp, socketTransparent(expr.CmpOpEq, 1), accept)
	}
	return []chain{
		// Nothing from outside reaches a socket of the spoofed leg: a client
		// that connects from a port which the proxy uses there is refused,
		// and no stray segment gets in. Fail closed: a new connection that
		// arrives at a local address and was not taken by the proxy is
		// refused.
		{
			"input", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter, "",
			[]words{
				rule(iifname("lo"), accept),
				rule(ip, daddr4.notIn(a.own4), fibDaddr.local(expr.CmpOpEq), unmarked, add(a.later4, daddr4)),
				rule(newConnection, socketMarked(mark), rejectWithReset),
				rule(tcp, socketMarked(mark), drop),
				rule(iifname(c.Interface), newConnection, goTo("closed_in")),
			},
		},
		// A frame that somebody puts onto lo does not leave the pod.
		{
			"forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter, "",
			[]words{rule(iifname("lo"), drop)},
		},
		{name: "closed_in", rules: []words{
			intercepted,
			jump("exempt"),
			rule(tcp, rejectWithReset),
		}},
	}
}

func redirectIn(c Config) chain {
	return chain{
		"redirect_in", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest, "",
		[]words{rule(iifname(c.Interface), newConnection, goTo("inbound"))},
	}
}

func divertIn(c Config) chain {
	return chain{
		"divert_in", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityMangle, "",
		[]words{
			rule(iifname("lo"), marked(mark), newConnection, socketTransparent(expr.CmpOpEq, 1), rejectWithReset),
			rule(iifname(c.Interface), tcp, goTo("inbound")),
		},
	}
}

// ownDestination leaves alone what is not addressed to the pod (forwarding)
// and what the settings exempt.
func ownDestination(a addresses) []words {
	return []words{
		rule(ip, daddr4.notIn(a.own4), daddr4.notIn(a.later4), fibDaddrIif.local(expr.CmpOpNeq), accept),
		rule(ip6, daddr6.notIn(a.own6), fibDaddr.local(expr.CmpOpNeq), accept),
		jump("exempt"),
	}
}

// exempt accepts what reaches the application, or the admin port, directly.
func exempt(c Config, s *sets) []words {
	rules := []words{rule(tcp, dport.is(port(c.AdminPort)), accept)}
	ports := func(name string, ranges []PortRange) *nftables.Set {
		return s.add(nftables.Set{Name: name, KeyType: nftables.TypeInetService, Interval: true}, intervals(portSpans(ranges)))
	}
	if len(c.ExcludePorts) > 0 {
		rules = append(rules, rule(tcp, dport.in(ports("exclude_ports", c.ExcludePorts)), accept))
	}
	if len(c.IncludePorts) > 0 {
		rules = append(rules, rule(tcp, dport.notIn(ports("include_ports", c.IncludePorts)), accept))
	}
	v4, v6 := prefixSpans(c.ExcludeSources)
	if len(v4) > 0 {
		def := nftables.Set{Name: "exclude4", KeyType: nftables.TypeIPAddr, Interval: true}
		rules = append(rules, rule(ip, saddr4.in(s.add(def, intervals(v4))), accept))
	}
	if len(v6) > 0 {
		def := nftables.Set{Name: "exclude6", KeyType: nftables.TypeIP6Addr, Interval: true}
		rules = append(rules, rule(ip6, saddr6.in(s.add(def, intervals(v6))), accept))
	}
	return rules
}

// netdevTable guards what never passes chain output: frames of packet sockets.
// A packet with a route came through it, or is forwarded; a frame without a
// socket is bridged.
func netdevTable(c Config, own []netip.Addr) table {
	t := &nftables.Table{Name: contract.Table, Family: nftables.TableFamilyNetdev}
	s := &sets{table: t}
	own4, own6 := s.own(own)
	v4, v6, arp := protocol(unix.ETH_P_IP), protocol(unix.ETH_P_IPV6), protocol(unix.ETH_P_ARP)
	return table{t, s.list, []chain{
		{
			"egress", nftables.ChainTypeFilter, nftables.ChainHookEgress, nftables.ChainPriorityFilter, c.Interface,
			[]words{
				rule(present(expr.MetaKeyRTCLASSID), accept),
				rule(etherType.is(port(unix.ETH_P_IP)), goTo("frame4")),
				rule(etherType.is(port(unix.ETH_P_IPV6)), goTo("frame6")),
				rule(etherType.is(port(unix.ETH_P_ARP)), goTo("frame_arp")),
				rule(present(expr.MetaKeySKUID), drop),
			},
		},
		{name: "frame4", rules: []words{
			rule(v4, saddr4.in(own4), accept),
			rule(v4, saddr4.is(netip.IPv4Unspecified().AsSlice()), accept),
			rule(present(expr.MetaKeySKUID), drop),
		}},
		{name: "frame6", rules: []words{
			rule(v6, saddr6.in(own6), accept),
			rule(v6, saddr6.is(netip.IPv6Unspecified().AsSlice()), accept),
			rule(present(expr.MetaKeySKUID), drop),
		}},
		{name: "frame_arp", rules: []words{
			rule(arp, arpSaddr.in(own4), accept),
			rule(arp, arpSaddr.is(netip.IPv4Unspecified().AsSlice()), accept),
			rule(present(expr.MetaKeySKUID), drop),
		}},
	}}
}

// program replaces both tables by t in one transaction.
func (p *pod) program(tables []table) error {
	return p.transact(func(conn *nftables.Conn) error {
		for _, t := range tables {
			if err := t.add(conn); err != nil {
				return err
			}
		}
		return nil
	})
}

// add replaces one table.
func (t table) add(conn *nftables.Conn) error {
	// Adding before deleting makes the deletion succeed on the first run.
	conn.AddTable(t.Table)
	conn.DelTable(t.Table)
	conn.AddTable(t.Table)
	for _, s := range t.sets {
		if err := conn.AddSet(s.Set, s.elements); err != nil {
			return err
		}
	}
	policy := nftables.ChainPolicyAccept
	chains := make([]*nftables.Chain, len(t.chains))
	for i, ch := range t.chains {
		chains[i] = &nftables.Chain{Table: t.Table, Name: ch.name}
		if ch.hook != nil {
			chains[i].Type, chains[i].Hooknum, chains[i].Priority = ch.kind, ch.hook, ch.priority
			chains[i].Device, chains[i].Policy = ch.device, &policy
		}
		conn.AddChain(chains[i])
	}
	for i, ch := range t.chains {
		for _, r := range ch.rules {
			conn.AddRule(&nftables.Rule{Table: t.Table, Chain: chains[i], Exprs: r})
		}
	}
	return nil
}
