package podstat

import (
	"bytes"
	"os"
	"strings"
)

// Sysctl is a setting of the pod that the plugin makes.
type Sysctl struct {
	Name     string `json:"name"`
	Value    string `json:"value"` // "" if it cannot be read
	Want     string `json:"want"`
	OK       bool   `json:"ok"`
	Optional bool   `json:"optional"` // interception works without; half-closed connections may end early
}

// ReadSysctls reads those of the pod's families; tracks as in Read.
func ReadSysctls(six, tracks bool) []Sysctl {
	all := []Sysctl{
		{Name: "net.ipv4.tcp_fwmark_accept", Want: "1"},
		{Name: "net.ipv4.fwmark_reflect", Want: "1"},
	}
	if six {
		all = append(all, Sysctl{Name: "net.ipv6.fwmark_reflect", Want: "1"}, Sysctl{Name: "net.ipv6.ip_nonlocal_bind", Want: "1"})
	}
	if tracks {
		for _, state := range []string{"close_wait", "last_ack", "fin_wait"} {
			all = append(all, Sysctl{Name: "net.netfilter.nf_conntrack_tcp_timeout_" + state, Want: "300", Optional: true})
		}
	}
	for i := range all {
		s := &all[i]
		text, _ := os.ReadFile("/proc/sys/" + strings.ReplaceAll(s.Name, ".", "/"))
		s.Value = string(bytes.TrimSpace(text))
		s.OK = s.Value == s.Want
	}
	return all
}
