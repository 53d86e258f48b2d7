package settings

import (
	"strings"

	"github.com/tproxy-cni/tproxy-cni/internal/printable"
	"github.com/tproxy-cni/tproxy-cni/internal/ranges"
)

// forSidecar are the annotations that the sidecar gets as flags of the same names,
// from whatever injects it. The plugin has no use for them but to refuse a pod whose
// sidecar would not start.
var forSidecar = []struct {
	name, want string
	problems   func(elements []string) []string
}{
	{proxyProtocolFrom, ranges.WantCIDRs, func(e []string) []string {
		_, problems := ranges.Parse(e, ranges.ParseCIDR)
		return problems
	}},
	{proxyProtocolPorts, ranges.WantPorts, func(e []string) []string {
		_, problems := ranges.Parse(e, ranges.ParsePorts)
		return problems
	}},
}

const (
	proxyProtocolFrom  = "proxy-protocol-from"
	proxyProtocolPorts = "proxy-protocol-ports"
)

// sidecarTexts reads those of a pod's annotations that are the sidecar's.
func (s *Settings) sidecarTexts(values map[string]string) {
	for _, d := range forSidecar {
		text := values[d.name]
		if strings.TrimSpace(text) == "" {
			continue // as if it were absent
		}
		s.sidecar = append(s.sidecar, "--"+d.name+"="+text)
		problems, want := d.problems(strings.Split(text, ",")), d.want
		if d.name == proxyProtocolPorts && strings.TrimSpace(values[proxyProtocolFrom]) == "" {
			problems, want = []string{"without " + proxyProtocolFrom + " it does nothing"}, "both, or neither"
		}
		if len(problems) > 0 {
			s.fault(Annotation, Annotation.subject(d.name, d.name), printable.Quote(text), printable.List(problems, ", "), want)
		}
	}
}

// SidecarFlags returns what the annotations ask of the sidecar, as flags of its
// command line: "--proxy-protocol-from=192.0.2.0/24".
func (s *Settings) SidecarFlags() []string { return s.sidecar }
