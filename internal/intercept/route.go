package intercept

import (
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// Policy routing, as data. testdata/ipv4.ip and ipv6.ip say the same in ip's language.
//
// The kernel's own rule "0: from all lookup local" gives way to
//
//	1: fwmark M lookup 29808      marked packets stay in the pod,
//	1: fwmark M unreachable       and go nowhere should lo be down;
//	2: lookup local suppress_prefixlength 0
//	                              all others see local without its default.
//
// Table 29808 makes every address local on lo, and on the pod's interface: the
// answers of a socket that is bound to that (SO_BINDTODEVICE) are looked up for it
// alone, and where IPv4 finds nothing it takes the address for a neighbour's.
//
// IPv4: connect(2) takes a source that is not the pod's only if table local
// says that it is (__ip_dev_find in the kernel's net/ipv4/devinet.c, which
// asks no rule), so a route that makes every address local must be there, too.
// IPv6 has no such check; its rule 0 stays.
const (
	markedPriority   = 1
	unmarkedPriority = 2
	localPriority    = 0 // the kernel's own

	// boundMetric is behind that of the route on lo, which is 0 or 1024.
	boundMetric = 2048
)

// family is what one address family needs.
type family struct {
	name   string
	af     int
	rules  []netlink.Rule
	routes []netlink.Route // the defaults that make every address local
	// local says that rule 0 gives way to the last of rules.
	local bool
}

// families are both, in a mode, for a pod whose interface has these indices; 0 where
// it is gone or lacks the family, and its route with it.
func families(mode contract.Mode, lo, eth4, eth6 int) []family {
	fs := []family{
		{
			name: "ipv4", af: unix.AF_INET, local: true,
			rules: append(markedRules(unix.AF_INET),
				newRule(unix.AF_INET, unmarkedPriority, func(r *netlink.Rule) { r.Table, r.SuppressPrefixlen = unix.RT_TABLE_LOCAL, 0 }),
			),
			routes: []netlink.Route{
				everyAddress(lo, unix.AF_INET, contract.RouteTable, 0),
				everyAddress(lo, unix.AF_INET, unix.RT_TABLE_LOCAL, 0),
			},
		},
		{
			name: "ipv6", af: unix.AF_INET6,
			rules:  markedRules(unix.AF_INET6),
			routes: []netlink.Route{everyAddress(lo, unix.AF_INET6, contract.RouteTable, 0)},
		},
	}
	for i, f := range fs {
		if eth := [2]int{eth4, eth6}[i]; eth != 0 {
			// Before the one of table local, which comes last.
			fs[i].routes = slices.Insert(f.routes, 1, everyAddress(eth, f.af, contract.RouteTable, boundMetric))
		}
	}
	for _, f := range fs {
		for i := range f.routes {
			f.routes[i].Protocol = routeProtocol(mode)
		}
	}
	return fs
}

// routeProtocol is the origin that the routes of a mode name: the sidecar, which may
// not read the rules, tells the modes apart by it. An earlier version's routes have
// RTPROT_BOOT in both.
func routeProtocol(mode contract.Mode) netlink.RouteProtocol {
	switch mode {
	case contract.ModeNAT:
		return contract.RouteProtocolNAT
	case contract.ModeTProxy:
		return contract.RouteProtocolTProxy
	}
	return unix.RTPROT_UNSPEC // any, to delete
}

func markedRules(af int) []netlink.Rule {
	return []netlink.Rule{
		newRule(af, markedPriority, func(r *netlink.Rule) { markRule(r); r.Table = contract.RouteTable }),
		newRule(af, markedPriority, func(r *netlink.Rule) { markRule(r); r.Type = unix.RTN_UNREACHABLE }),
	}
}

func newRule(af, priority int, set func(*netlink.Rule)) netlink.Rule {
	r := netlink.NewRule()
	r.Family, r.Priority = af, priority
	set(r)
	return *r
}

func markRule(r *netlink.Rule) {
	mask := uint32(contract.Mark)
	r.Mark, r.Mask = contract.Mark, &mask
}

// kernelRule is "0: from all lookup local".
func kernelRule(af int) netlink.Rule {
	return newRule(af, localPriority, func(r *netlink.Rule) { r.Table = unix.RT_TABLE_LOCAL })
}

func everyAddress(link, af, table, metric int) netlink.Route {
	bits := 32
	if af == unix.AF_INET6 {
		bits = 128
	}
	return netlink.Route{
		LinkIndex: link, Family: af, Table: table, Priority: metric, Type: unix.RTN_LOCAL,
		Scope: netlink.SCOPE_HOST,
		Dst:   &net.IPNet{IP: make(net.IP, bits/8), Mask: net.CIDRMask(0, bits)},
	}
}

func isDefault(dst *net.IPNet) bool {
	if dst == nil {
		return true
	}
	ones, _ := dst.Mask.Size()
	return ones == 0
}

// hasRule compares all that kernelRule and families set, so that a rule with
// a mark or a selector is never taken for one without. The library does not
// read a rule's type; a rule without a table is not a lookup.
func hasRule(have []netlink.Rule, want netlink.Rule) bool {
	return slices.ContainsFunc(have, func(r netlink.Rule) bool { return sameRule(r, want) })
}

func isOneOf(r netlink.Rule, list []netlink.Rule) bool {
	return slices.ContainsFunc(list, func(o netlink.Rule) bool { return sameRule(r, o) })
}

// sameRule compares a rule that the kernel has with one that families or kernelRule made.
func sameRule(r, want netlink.Rule) bool {
	return r.Priority == want.Priority && r.Table == want.Table &&
		r.Mark == want.Mark && mask(r) == mask(want) && r.SuppressPrefixlen == want.SuppressPrefixlen &&
		r.Src == nil && r.Dst == nil && r.IifName == "" && r.OifName == "" && r.UIDRange == nil && !r.Invert
}

func mask(r netlink.Rule) uint32 {
	if r.Mask == nil {
		return 0
	}
	return *r.Mask
}

// ruleText is r as ip rule shows it.
func ruleText(r netlink.Rule) string {
	from := "all"
	if r.Src != nil {
		from = r.Src.String()
	}
	text := fmt.Sprintf("%d: from %s", r.Priority, from)
	if r.Mark != 0 {
		text += fmt.Sprintf(" fwmark %#x/%#x", r.Mark, mask(r))
	}
	switch {
	case r.Type == unix.RTN_UNREACHABLE:
		return text + " unreachable"
	case r.Table == unix.RT_TABLE_LOCAL:
		text += " lookup local"
	default:
		text += fmt.Sprintf(" lookup %d", r.Table)
	}
	if r.SuppressPrefixlen >= 0 {
		text += fmt.Sprintf(" suppress_prefixlength %d", r.SuppressPrefixlen)
	}
	return text
}

// routeText is r as ip route shows it.
func routeText(h *netlink.Handle, r netlink.Route) string {
	text := "local default"
	if link, err := h.LinkByIndex(r.LinkIndex); err == nil {
		text += " dev " + link.Attrs().Name
	}
	text += fmt.Sprintf(" table %d", r.Table)
	if r.Priority != 0 {
		text += fmt.Sprintf(" metric %d", r.Priority)
	}
	return text
}
