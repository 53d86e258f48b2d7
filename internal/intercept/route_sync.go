package intercept

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

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

// settleRules takes out rules for our mark that are none of f's, as those of an
// earlier version of this plugin, and puts f's in their order. The routes are there
// by then: at no moment do marked packets find nothing.
func (f family) settleRules(h *netlink.Handle) error {
	have, err := f.marked(h)
	if err != nil {
		return err
	}
	want := markedRules(f.af)
	if slices.EqualFunc(have, want, sameRule) {
		return nil
	}
	for _, r := range want[1:] {
		if hasRule(have, r) {
			if err := h.RuleDel(&r); err != nil {
				return fmt.Errorf("delete %s rule %q: %w", f.name, ruleText(r), err)
			}
		}
		if err := h.RuleAdd(&r); err != nil {
			return fmt.Errorf("add %s rule %q: %w", f.name, ruleText(r), err)
		}
	}
	return f.removeMarked(h, func(r netlink.Rule) bool { return !isOneOf(r, want) })
}

// marked are the rules for our mark, in the kernel's order.
func (f family) marked(h *netlink.Handle) ([]netlink.Rule, error) {
	have, err := h.RuleList(f.af)
	if err != nil {
		return nil, fmt.Errorf("list %s rules: %w", f.name, err)
	}
	return slices.DeleteFunc(have, func(r netlink.Rule) bool {
		return r.Priority != markedPriority || r.Mark != contract.Mark || mask(r) != contract.Mark
	}), nil
}

func (f family) removeMarked(h *netlink.Handle, which func(netlink.Rule) bool) error {
	have, err := f.marked(h)
	if err != nil {
		return err
	}
	for _, r := range have {
		if !which(r) {
			continue
		}
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
	return f.removeMarked(h, func(r netlink.Rule) bool { return !isOneOf(r, f.rules) })
}

func (f family) addRoutes(h *netlink.Handle) error {
	for _, r := range f.routes {
		if err := h.RouteReplace(&r); err != nil {
			return fmt.Errorf("add %s route %q: %w", f.name, routeText(h, r), err)
		}
	}
	return nil
}

// removeRoutes is addRoutes undone, the one of table local first.
func (f family) removeRoutes(h *netlink.Handle) error {
	for _, r := range slices.Backward(f.routes) {
		r.Protocol = unix.RTPROT_UNSPEC
		if err := h.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("delete %s route %q: %w", f.name, routeText(h, r), err)
		}
	}
	return nil
}

// hasAny reports whether one of f's rules is there.
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
	marked, err := f.marked(h)
	if err != nil {
		return nil, err
	}
	for _, r := range marked {
		if !isOneOf(r, f.rules) {
			diffs = append(diffs, fmt.Sprintf("%s rule %q is unexpected", f.name, ruleText(r)))
		}
	}
	if len(diffs) == 0 && !slices.EqualFunc(marked, markedRules(f.af), sameRule) {
		diffs = append(diffs, fmt.Sprintf("%s rules of priority %d are in another order", f.name, markedPriority))
	}
	if r := kernelRule(f.af); f.local && hasRule(have, r) {
		diffs = append(diffs, fmt.Sprintf("%s rule %q is there and shows every address as local", f.name, ruleText(r)))
	}
	for _, r := range f.routes {
		switch protocol, err := f.protocolOf(h, r); {
		case errors.Is(err, unix.ESRCH):
			diffs = append(diffs, fmt.Sprintf("%s route %q is missing", f.name, routeText(h, r)))
		case err != nil:
			return nil, err
		case protocol != r.Protocol:
			diffs = append(diffs, fmt.Sprintf("%s route %q has protocol %d, not %d", f.name, routeText(h, r), protocol, r.Protocol))
		}
	}
	return diffs, nil
}

// protocolOf finds a route; the error is ESRCH if it is not there.
func (f family) protocolOf(h *netlink.Handle, want netlink.Route) (netlink.RouteProtocol, error) {
	routes, err := h.RouteListFiltered(f.af, &netlink.Route{Table: want.Table, Type: unix.RTN_LOCAL},
		netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
	if err != nil {
		return 0, fmt.Errorf("list %s routes of table %d: %w", f.name, want.Table, err)
	}
	for _, r := range routes {
		if r.LinkIndex == want.LinkIndex && isDefault(r.Dst) {
			return r.Protocol, nil
		}
	}
	return 0, unix.ESRCH
}
