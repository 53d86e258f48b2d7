package settings

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
	"github.com/tproxy-cni/tproxy-cni/internal/ranges"
)

// Setting is one setting of a pod.
type Setting struct {
	Name  string // the annotation behind contract.AnnotationPrefix, and the flag
	Key   string // in the conflist
	Usage string // for a flag's help
	form  form
	want  string // what is allowed

	// set puts the value into c or, if it is invalid, returns what is wrong.
	set func(c *intercept.Config, elements []string) (problems []string)
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
	packetGuard    = "packet-guard"

	// injectLabel is a pod's label, which a policy reads at the pod's
	// creation. As an annotation it would do nothing.
	injectLabel = "inject"
)

const wantPort = "1-65535"

var list = []Setting{
	{"mode", "mode", "how connections are intercepted: `nat|tproxy|none`", word, "nat, tproxy or none", setMode},
	{
		proxyPort, "proxyPort", "`port` of the sidecar's listener", number, wantPort,
		func(c *intercept.Config, e []string) []string { return setPort(&c.ProxyPort, e) },
	},
	{
		"proxy-uid", "proxyUID", "`uid` of the sidecar, the only one that may use a client's address", number,
		"1-4294967294, the sidecar's own uid", setUID,
	},
	{
		adminPort, "adminPort", "`port` of the sidecar's health endpoint, never intercepted", number, wantPort,
		func(c *intercept.Config, e []string) []string { return setPort(&c.AdminPort, e) },
	},
	{
		"include-inbound-ports", "includeInboundPorts", "`ports` to intercept, such as 80,8000-8099; empty means all", commas, ranges.WantPorts,
		func(c *intercept.Config, e []string) []string { return setAll(&c.IncludePorts, e, parseRange) },
	},
	{
		"exclude-inbound-ports", "excludeInboundPorts", "`ports` not to intercept, also where included", commas, ranges.WantPorts,
		func(c *intercept.Config, e []string) []string { return setAll(&c.ExcludePorts, e, parseRange) },
	},
	{
		excludeSources, "excludeSourceCIDRs", "`CIDRs` of clients whose connections are not intercepted", array, ranges.WantCIDRs,
		func(c *intercept.Config, e []string) []string { return setAll(&c.ExcludeSources, e, ranges.ParseCIDR) },
	},
	{
		packetGuard, "packetGuard", "what to do where the kernel lacks the hook for the whole packet guard: `required|best-effort`", word,
		"required or best-effort", setPacketGuard,
	},
}

// All returns the settings, for a program that makes flags of them.
func All() []Setting { return slices.Clone(list) }

// split makes elements of a text. An empty text is an empty list, by which a pod
// takes back what the node's defaults list.
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

func setMode(c *intercept.Config, e []string) []string {
	switch mode := contract.Mode(e[0]); mode {
	case contract.ModeNAT, contract.ModeTProxy, contract.ModeNone:
		c.Mode = mode
		return nil
	}
	return []string{"no such mode"}
}

func setPacketGuard(c *intercept.Config, e []string) []string {
	switch guard := contract.PacketGuard(e[0]); guard {
	case contract.PacketGuardRequired, contract.PacketGuardBestEffort:
		c.PacketGuard = guard
		return nil
	}
	return []string{"no such choice"}
}

func setPort(p *uint16, e []string) []string {
	v, problem := ranges.ParsePort(e[0])
	if problem != "" {
		return []string{problem}
	}
	*p = v
	return nil
}

// setUID refuses 0, because every root process in any container of the pod could
// then spoof a client's address, and 2^32-1, which the kernel uses for "no uid".
func setUID(c *intercept.Config, e []string) []string {
	v, err := strconv.ParseUint(e[0], 10, 32)
	switch {
	case err != nil || v == math.MaxUint32:
		return []string{"not a uid"}
	case v == 0:
		return []string{"uid 0 not allowed: every root process in the pod could spoof"}
	}
	c.ProxyUID = uint32(v)
	return nil
}

// setAll replaces the list at l if parse accepts every element.
func setAll[T any](l *[]T, elements []string, parse func(string) (v T, problem string)) (problems []string) {
	values, problems := ranges.Parse(elements, parse)
	if len(problems) == 0 {
		*l = values
	}
	return problems
}

func parseRange(s string) (intercept.PortRange, string) {
	r, problem := ranges.ParsePorts(s)
	return intercept.PortRange(r), problem
}
