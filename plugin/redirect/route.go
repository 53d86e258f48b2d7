package redirect

import (
	"errors"
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
//	1: fwmark M lookup …          marked packets stay in the pod,
//	1: fwmark M unreachable       and go nowhere should lo be down;
//	2: lookup local suppress_prefixlength 0
//	                              everybody else sees local without its default.
//
// IPv4: connect(2) takes a source that is not the pod's only if table local
// says that it is (__ip_dev_find in the kernel's net/ipv4/devinet.c, which
// asks no rule), so the route that makes every address local must be there.
// IPv6 has no such check and a table of its own will do; its rule 0 stays.
const (
	markedPriority   = 1
	unmarkedPriority = 2
	localPriority    = 0 // the kernel's own
)

// family is what one address family needs.
type family struct {
	name  string
	af    int
	rules []netlink.Rule
	route netlink.Route // the default that makes every address local
	// local says that rule 0 gives way to the last of rules.
	local bool
}

func families(lo int) []family {
	return []family{
		{
			name: "ipv4", af: unix.AF_INET, local: true,
			rules: []netlink.Rule{
				newRule(unix.AF_INET, markedPriority, func(r *netlink.Rule) { markRule(r); r.Table = unix.RT_TABLE_LOCAL }),
				newRule(unix.AF_INET, markedPriority, func(r *netlink.Rule) { markRule(r); r.Type = unix.RTN_UNREACHABLE }),
				newRule(unix.AF_INET, unmarkedPriority, func(r *netlink.Rule) { r.Table, r.SuppressPrefixlen = unix.RT_TABLE_LOCAL, 0 }),
			},
			route: everyAddress(lo, unix.AF_INET, unix.RT_TABLE_LOCAL),
		},
		{
			name: "ipv6", af: unix.AF_INET6,
			rules: []netlink.Rule{
				newRule(unix.AF_INET6, markedPriority, func(r *netlink.Rule) { markRule(r); r.Table = contract.RouteTable }),
				newRule(unix.AF_INET6, markedPriority, func(r *netlink.Rule) { markRule(r); r.Type = unix.RTN_UNREACHABLE }),
			},
			route: everyAddress(lo, unix.AF_INET6, contract.RouteTable),
		},
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

func everyAddress(lo, af, table int) netlink.Route {
	bits := 32
	if af == unix.AF_INET6 {
		bits = 128
	}
	return netlink.Route{
		LinkIndex: lo, Family: af, Table: table, Type: unix.RTN_LOCAL,
		Scope: netlink.SCOPE_HOST, Protocol: unix.RTPROT_BOOT,
		Dst: &net.IPNet{IP: make(net.IP, bits/8), Mask: net.CIDRMask(0, bits)},
	}
}

// addRules puts f's rules before the kernel's own, which then goes: at no
// moment does a packet find neither.
func (f family) addRules(h *netlink.Handle) error {
	have, err := h.RuleList(f.af)
	if err != nil {
		return fmt.Errorf("list %s rules: %w", f.name, err)
	}
	for _, r := range f.rules {
		if err := h.RuleAdd(&r); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add %s rule %q: %w", f.name, ruleText(r), err)
		}
	}
	if f.local && hasRule(have, kernelRule(f.af)) {
		r := kernelRule(f.af)
		if err := h.RuleDel(&r); err != nil {
			return fmt.Errorf("delete %s rule %q: %w", f.name, ruleText(r), err)
		}
	}
	return nil
}

// removeRules is addRules undone, the kernel's own rule first.
func (f family) removeRules(h *netlink.Handle) error {
	have, err := h.RuleList(f.af)
	if err != nil {
		return fmt.Errorf("list %s rules: %w", f.name, err)
	}
	if r := kernelRule(f.af); f.local && !hasRule(have, r) {
		if err := h.RuleAdd(&r); err != nil {
			return fmt.Errorf("add %s rule %q: %w", f.name, ruleText(r), err)
		}
	}
	for _, r := range f.rules {
		if !hasRule(have, r) {
			continue
		}
		if err := h.RuleDel(&r); err != nil {
			return fmt.Errorf("delete %s rule %q: %w", f.name, ruleText(r), err)
		}
	}
	return nil
}

func (f family) addRoute(h *netlink.Handle) error {
	if err := h.RouteReplace(&f.route); err != nil {
		return fmt.Errorf("add %s route %q: %w", f.name, f.routeText(), err)
	}
	return nil
}

func (f family) removeRoute(h *netlink.Handle) error {
	if err := h.RouteDel(&f.route); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("delete %s route %q: %w", f.name, f.routeText(), err)
	}
	return nil
}

// hasAny tells whether one of f's rules is there.
func (f family) hasAny(h *netlink.Handle) (bool, error) {
	have, err := h.RuleList(f.af)
	if err != nil {
		return false, fmt.Errorf("list %s rules: %w", f.name, err)
	}
	return slices.ContainsFunc(f.rules, func(r netlink.Rule) bool { return hasRule(have, r) }), nil
}

// check names what is missing of f, and a kernel rule that is back.
func (f family) check(h *netlink.Handle) (diffs []string, err error) {
	have, err := h.RuleList(f.af)
	if err != nil {
		return nil, fmt.Errorf("list %s rules: %w", f.name, err)
	}
	for _, r := range f.rules {
		if !hasRule(have, r) {
			diffs = append(diffs, fmt.Sprintf("%s rule %q is missing", f.name, ruleText(r)))
		}
	}
	if r := kernelRule(f.af); f.local && hasRule(have, r) {
		diffs = append(diffs, fmt.Sprintf("%s rule %q is there and shows every address as local", f.name, ruleText(r)))
	}
	routes, err := h.RouteListFiltered(f.af, &netlink.Route{Table: f.route.Table, Type: unix.RTN_LOCAL},
		netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
	if err != nil {
		return nil, fmt.Errorf("list %s routes of table %d: %w", f.name, f.route.Table, err)
	}
	for _, r := range routes {
		if r.LinkIndex == f.route.LinkIndex && isDefault(r.Dst) {
			return diffs, nil
		}
	}
	return append(diffs, fmt.Sprintf("%s route %q is missing", f.name, f.routeText())), nil
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
// read a rule's type; only one without a table is no lookup.
func hasRule(have []netlink.Rule, want netlink.Rule) bool {
	for _, r := range have {
		if r.Priority == want.Priority && r.Table == want.Table &&
			r.Mark == want.Mark && mask(r) == mask(want) && r.SuppressPrefixlen == want.SuppressPrefixlen &&
			r.Src == nil && r.Dst == nil && r.IifName == "" && r.OifName == "" && r.UIDRange == nil && !r.Invert {
			return true
		}
	}
	return false
}

func mask(r netlink.Rule) uint32 {
	if r.Mask == nil {
		return 0
	}
	return *r.Mask
}

// ruleText is r as ip rule shows it.
func ruleText(r netlink.Rule) string {
	text := fmt.Sprintf("%d: from all", r.Priority)
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

func (f family) routeText() string {
	return fmt.Sprintf("local default dev lo table %d", f.route.Table)
}
