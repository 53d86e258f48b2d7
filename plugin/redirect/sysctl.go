package redirect

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containernetworking/plugins/pkg/ns"
)

// sysctls are the settings of the pod's network namespace that the spoofed leg
// needs. They reach every process of the pod, so each says what else changes.
// The kernel's default of all is 0.
var sysctls = []string{
	// An accepted socket takes the mark of its SYN: this is what makes the
	// application's replies stay in the pod, without conntrack. Others never
	// see marked SYNs.
	"net/ipv4/tcp_fwmark_accept",

	// The kernel's own replies (RST, challenge ACK) carry the mark of what
	// they answer: without it a refused connection would send its RST to the
	// real client. Replies to unmarked packets are as before.
	"net/ipv4/fwmark_reflect",
	"net/ipv6/fwmark_reflect",

	// Any process may bind an IPv6 address that is not the pod's, as the
	// local default route lets it in IPv4: the sidecar has to, and the guard
	// stops everybody else's packets. A typing error in an application's
	// listen address is no error any more.
	"net/ipv6/ip_nonlocal_bind",
}

const sysctlDir = "/proc/sys/"

// sysctl is one setting and its value.
type sysctl struct{ key, value string }

// readSysctls reads ours; those of a kernel without IPv6 are left out.
func readSysctls(pod ns.NetNS) (have []sysctl, err error) {
	err = pod.Do(func(ns.NetNS) error {
		for _, key := range sysctls {
			b, err := os.ReadFile(sysctlDir + key)
			if errors.Is(err, os.ErrNotExist) && strings.HasPrefix(key, "net/ipv6/") {
				continue
			}
			if err != nil {
				return fmt.Errorf("read sysctl: %w", err)
			}
			have = append(have, sysctl{key, strings.TrimSpace(string(b))})
		}
		return nil
	})
	return have, err
}

// writeSysctls writes what differs from have: where /proc/sys is read-only,
// values that are right already are no error.
func writeSysctls(pod ns.NetNS, have, want []sysctl) error {
	return pod.Do(func(ns.NetNS) error {
		for i, s := range want {
			if have[i].value == s.value {
				continue
			}
			if err := os.WriteFile(sysctlDir+s.key, []byte(s.value), 0o644); err != nil {
				return fmt.Errorf("set sysctl %s=%s: %w", strings.ReplaceAll(s.key, "/", "."), s.value, err)
			}
		}
		return nil
	})
}

// withValue is list with every value v.
func withValue(list []sysctl, v string) []sysctl {
	out := make([]sysctl, len(list))
	for i, s := range list {
		out[i] = sysctl{s.key, v}
	}
	return out
}

// hasIPv6 tells whether lo can have IPv6 routes: not where the kernel lacks
// IPv6 or the namespace disables it.
func hasIPv6(pod ns.NetNS) (has bool, err error) {
	err = pod.Do(func(ns.NetNS) error {
		b, err := os.ReadFile(sysctlDir + "net/ipv6/conf/lo/disable_ipv6")
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		has = strings.TrimSpace(string(b)) == "0"
		return err
	})
	return has, err
}
