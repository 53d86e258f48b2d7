package intercept

import (
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// Policy routing, as data. testdata/ipv4.ip and ipv6.ip say the same in ip's language.
//
// The kernel's own rule "0: from all lookup local" gives way to
//
//	0: fwmark M lookup 29808      marked packets stay in the pod,
//	0: fwmark M unreachable       and go nowhere should lo be down;
//	0: lookup local suppress_prefixlength 0
//	                              all others see local without its default;
//	0: uidrange U lookup main suppress_ifgroup default
//	                              the sidecar answers by the CNI interface.
//
// All have priority 0, and come first: a rule that is added without a priority gets the
// one below the second rule's, or 0 if that is 0, and its place is behind those that
// have the same (fib_default_rule_pref and fib_nl_newrule in the kernel's
// net/core/fib_rules.c). So no rule that comes later is ahead of ours; where an earlier
// one is, it is moved behind them.
//
// That order is not the one that other software may expect: in a pod without ours each
// rule goes ahead of the one before it. wg-quick adds "not fwmark … lookup 51820" first
// and then "lookup main suppress_prefixlength 0", which must be the first to be asked, or
// answers to neighbours go into the tunnel. Hence the last rule: the sidecar's clients
// came by the CNI interface, which is in a group of its own. Where main's best match leads
// to an interface in group default, the whole look-up is suppressed.
//
// Table 29808 makes every address local on lo, and on the pod's interface: the
// answers of a socket that is bound to that (SO_BINDTODEVICE) are looked up for it
// alone, and where IPv4 finds nothing it takes the address for a neighbour's.
//
// IPv4: connect(2) takes a source that is not the pod's only if table local
// says that it is (__ip_dev_find in the kernel's net/ipv4/devinet.c, which
// asks no rule), so a route that makes every address local must be there, too.
// IPv6 has no such check; its rule 0 stays, ahead of ours.
const (
	// Priorities that an earlier version gave its rules.
	earlierMarkedPriority = 1
	earlierLocalPriority  = 2

	// linkGroup is the CNI interface's.
	linkGroup = contract.RouteTable

	// boundMetric is behind that of the route on lo, which is 0 or 1024.
	boundMetric = 2048
)

// family is what one address family needs.
type family struct {
	name  string
	af    int
	rules []ipRule
	// routes are the defaults of table 29808 that make every address local.
	routes []netlink.Route
	// exposed is the same in table local: the last to come, when the rules hide
	// it, and the first to go.
	exposed []netlink.Route
}

// hidesLocal reports whether the kernel's rule for table local gives way to one of
// f's.
func (f family) hidesLocal() bool { return len(f.exposed) > 0 }

// families are both, in a mode, for a pod whose interface has these indices; 0 where it is
// gone or lacks the family, and its route with it. Their answersRule is pod.families'.
func families(mode contract.Mode, lo, eth4, eth6 int) []family {
	fs := []family{
		{
			name: "ipv4", af: unix.AF_INET,
			rules:   append(markedRules(unix.AF_INET), localRule(unix.AF_INET, 0, 0)),
			exposed: []netlink.Route{everyAddress(lo, unix.AF_INET, unix.RT_TABLE_LOCAL, 0)},
		},
		{name: "ipv6", af: unix.AF_INET6, rules: markedRules(unix.AF_INET6)},
	}
	for i, eth := range []int{eth4, eth6} {
		f := &fs[i]
		f.routes = []netlink.Route{everyAddress(lo, f.af, contract.RouteTable, 0)}
		if eth != 0 {
			f.routes = append(f.routes, everyAddress(eth, f.af, contract.RouteTable, boundMetric))
		}
		for _, list := range [][]netlink.Route{f.routes, f.exposed} {
			for i := range list {
				list[i].Protocol = routeProtocol(mode)
			}
		}
	}
	return fs
}

func markedRules(family uint8) []ipRule {
	return []ipRule{
		markedRule(family, 0, unix.FR_ACT_TO_TBL, contract.RouteTable),
		markedRule(family, 0, unix.FR_ACT_UNREACHABLE, 0),
	}
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

// joinGroup puts the CNI interface into linkGroup, unless it is in one already.
func (p *pod) joinGroup(link netlink.Link) error {
	if link.Attrs().Group != 0 {
		return nil
	}
	return wrap("set the group of interface "+printable.Word(link.Attrs().Name), p.link.LinkSetGroup(link, linkGroup))
}

// leaveGroup is joinGroup undone. The interface may be gone.
func (p *pod) leaveGroup(ifname string) error {
	link, err := p.link.LinkByName(ifname)
	if err != nil || link.Attrs().Group != linkGroup {
		return nil
	}
	return wrap("reset the group of interface "+printable.Word(ifname), p.link.LinkSetGroup(link, 0))
}

// inGroup reports whether joinGroup was here.
func (p *pod) inGroup(ifname string) bool {
	link, err := p.link.LinkByName(ifname)
	return err == nil && link.Attrs().Group == linkGroup
}

// checkGroup names a missing group.
func (p *pod) checkGroup(ifname string) []string {
	if link, err := p.link.LinkByName(ifname); err == nil && link.Attrs().Group == 0 {
		return []string{fmt.Sprintf("interface %s is in group default, not %d", printable.Word(ifname), linkGroup)}
	}
	return nil
}

func isDefault(dst *net.IPNet) bool {
	if dst == nil {
		return true
	}
	ones, _ := dst.Mask.Size()
	return ones == 0
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
