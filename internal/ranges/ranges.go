// Package ranges reads ports, ranges of ports and CIDRs as annotations, the conflist
// entry and flags write them. What is wrong with a text is returned as a problem, a
// phrase for a fault that names the setting.
package ranges

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// What lists are made of, for faults.
const (
	WantPorts = "ports and ranges of 1-65535, such as 80,8000-8099"
	WantCIDRs = "CIDRs such as 192.0.2.0/24,2001:db8::/32"
)

// Most bounds a list: the kernel takes a whole ruleset in one message, and 4000
// elements do not fit.
const Most = 1000

// Ports is a range of TCP ports, both ends inclusive.
type Ports struct{ Low, High uint16 }

// Has reports whether a port is in the range.
func (r Ports) Has(port uint16) bool { return r.Low <= port && port <= r.High }

// Parse reads a list, element by element: all values, or every problem.
func Parse[T any](elements []string, parse func(string) (v T, problem string)) (values []T, problems []string) {
	if len(elements) > Most {
		return nil, []string{fmt.Sprintf("%d elements, more than %d", len(elements), Most)}
	}
	for i, e := range elements {
		if e = strings.TrimSpace(e); e == "" {
			problems = append(problems, fmt.Sprintf("element %d is empty", i+1))
			continue
		}
		v, problem := parse(e)
		if problem != "" {
			problems = append(problems, problem)
		}
		values = append(values, v)
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return values, nil
}

// ParsePort reads one port.
func ParsePort(s string) (port uint16, problem string) {
	v, err := strconv.ParseUint(s, 10, 16)
	if err != nil || v == 0 {
		return 0, printable.Quote(s) + " is not a port"
	}
	return uint16(v), ""
}

// ParsePorts reads a port or a range of them.
func ParsePorts(s string) (r Ports, problem string) {
	low, high, isRange := strings.Cut(s, "-")
	if !isRange {
		high = low
	}
	if r.Low, problem = ParsePort(strings.TrimSpace(low)); problem != "" {
		return r, problem
	}
	if r.High, problem = ParsePort(strings.TrimSpace(high)); problem != "" {
		return r, problem
	}
	if r.Low > r.High {
		problem = fmt.Sprintf("range %d-%d is reversed", r.Low, r.High)
	}
	return r, problem
}

// ParseCIDR takes only what is unambiguous: with host bits set it is unclear
// whether an address or its network is meant, and an IPv4-mapped address is never
// the source of a packet.
func ParseCIDR(s string) (p netip.Prefix, problem string) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return p, fmt.Sprintf("%s has no prefix length, write %s/%d", s, s, a.BitLen())
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		problem = printable.Quote(s) + " is not a CIDR"
	case p.Addr().Is4In6():
		problem = fmt.Sprintf("%s is an IPv4-mapped IPv6 address, write IPv4", s)
	case p != p.Masked():
		problem = fmt.Sprintf("%s has host bits set, write %s or %s/%d", s, p.Masked(), p.Addr(), p.Addr().BitLen())
	}
	return p, problem
}
