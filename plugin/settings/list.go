package settings

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/plugin/redirect"
)

// Setting is one thing that can be said about a pod.
type Setting struct {
	Name  string // the annotation behind contract.AnnotationPrefix, and the flag
	Key   string // in the conflist
	Usage string // for a flag's help
	form  form
	want  string // what is allowed

	// set puts the value into c, or nothing and says what is wrong with it.
	set func(c *redirect.Config, elements []string) (problems []string)
}

// form is how a value is written: in annotations and flags always as text, and
// lists with commas; the conflist has JSON.
type form int

const (
	word   form = iota // JSON string
	number             // JSON number
	commas             // JSON string, a list with commas
	array              // JSON array of strings
)

// Names of settings to which something else refers.
const (
	proxyPort      = "proxy-port"
	adminPort      = "admin-port"
	excludeSources = "exclude-source-cidrs"

	// injectLabel is a pod's label, which a policy reads at the pod's
	// creation. As an annotation it would do nothing.
	injectLabel = "inject"
)

const (
	wantPort  = "1-65535"
	wantPorts = "ports and ranges of 1-65535, such as 80,8000-8099"
	wantCIDRs = "CIDRs such as 192.0.2.0/24,2001:db8::/32"
)

var list = []Setting{
	{"mode", "mode", "how connections are intercepted: `nat|tproxy|none`", word, "nat, tproxy or none", setMode},
	{
		proxyPort, "proxyPort", "`port` of the sidecar's listener", number, wantPort,
		func(c *redirect.Config, e []string) []string { return setPort(&c.ProxyPort, e) },
	},
	{
		"proxy-uid", "proxyUID", "`uid` of the sidecar, the only one that may use a client's address", number,
		"1-4294967294, the sidecar's own uid", setUID,
	},
	{
		adminPort, "adminPort", "`port` of the sidecar's health endpoint, never intercepted", number, wantPort,
		func(c *redirect.Config, e []string) []string { return setPort(&c.AdminPort, e) },
	},
	{
		"include-inbound-ports", "includeInboundPorts", "`ports` to intercept, such as 80,8000-8099; empty means all", commas, wantPorts,
		func(c *redirect.Config, e []string) []string { return setAll(&c.IncludePorts, e, parseRange) },
	},
	{
		"exclude-inbound-ports", "excludeInboundPorts", "`ports` not to intercept, also where included", commas, wantPorts,
		func(c *redirect.Config, e []string) []string { return setAll(&c.ExcludePorts, e, parseRange) },
	},
	{
		excludeSources, "excludeSourceCIDRs", "`CIDRs` of clients whose connections are not intercepted", array, wantCIDRs,
		func(c *redirect.Config, e []string) []string { return setAll(&c.ExcludeSources, e, parseCIDR) },
	},
}

// All lists the settings, for a program that makes flags of them.
func All() []Setting { return slices.Clone(list) }

// split makes elements of a text. An empty list is no list with an empty
// element: it lets a pod take back what the node's defaults list.
func (d Setting) split(text string) []string {
	text = strings.TrimSpace(text)
	switch {
	case d.form == word || d.form == number:
		return []string{text}
	case text == "":
		return nil
	}
	return strings.Split(text, ",")
}

func setMode(c *redirect.Config, e []string) []string {
	switch e[0] {
	case contract.ModeNAT, contract.ModeTProxy, contract.ModeNone:
		c.Mode = e[0]
		return nil
	}
	return []string{"no such mode"}
}

func setPort(p *uint16, e []string) []string {
	v, problem := parsePort(e[0])
	if problem != "" {
		return []string{problem}
	}
	*p = v
	return nil
}

// setUID refuses 0, because every process of root, in whichever container of
// the pod, could then speak with any client's address, and 2^32-1, which is
// no uid.
func setUID(c *redirect.Config, e []string) []string {
	v, err := strconv.ParseUint(e[0], 10, 32)
	switch {
	case err != nil || v == math.MaxUint32:
		return []string{"no uid"}
	case v == 0:
		return []string{"root is no uid by which to tell the sidecar from others"}
	}
	c.ProxyUID = uint32(v)
	return nil
}

// maxElements bounds a list: the kernel takes a whole ruleset in one message,
// and 4000 elements do not fit.
const maxElements = 1000

// setAll replaces the list at l if parse accepts every element.
func setAll[T any](l *[]T, elements []string, parse func(string) (v T, problem string)) (problems []string) {
	if len(elements) > maxElements {
		return []string{fmt.Sprintf("%d elements, more than %d", len(elements), maxElements)}
	}
	var values []T
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
	if len(problems) == 0 {
		*l = values
	}
	return problems
}

func parsePort(s string) (port uint16, problem string) {
	v, err := strconv.ParseUint(s, 10, 16)
	if err != nil || v == 0 {
		return 0, fmt.Sprintf("%q is no port", short(s))
	}
	return uint16(v), ""
}

func parseRange(s string) (r redirect.PortRange, problem string) {
	low, high, isRange := strings.Cut(s, "-")
	if !isRange {
		high = low
	}
	if r.Low, problem = parsePort(strings.TrimSpace(low)); problem != "" {
		return r, problem
	}
	if r.High, problem = parsePort(strings.TrimSpace(high)); problem != "" {
		return r, problem
	}
	if r.Low > r.High {
		problem = fmt.Sprintf("%d-%d is upside down", r.Low, r.High)
	}
	return r, problem
}

// parseCIDR takes only what means what it says: with host bits set it is
// unclear whether an address or its network is meant, and an IPv4-mapped
// address never is the source of a packet.
func parseCIDR(s string) (p netip.Prefix, problem string) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return p, fmt.Sprintf("%s has no prefix length, write %s/%d", s, s, a.BitLen())
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		problem = fmt.Sprintf("%q is no CIDR", short(s))
	case p.Addr().Is4In6():
		problem = fmt.Sprintf("%s is an IPv4-mapped IPv6 address, write IPv4", s)
	case p != p.Masked():
		problem = fmt.Sprintf("%s has bits set behind its prefix, write %s or %s/%d", s, p.Masked(), p.Addr(), p.Addr().BitLen())
	}
	return p, problem
}
