package main

import (
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/internal/lab"
	"github.com/tproxy-cni/tproxy-cni/plugin/redirect"
)

// wired is a pod with both addresses and a client.
func wired(t *testing.T) *lab.Net {
	t.Helper()
	lab.Need(t)
	n := lab.NewNet(t)
	n.Wire()
	return n
}

var podAddresses = []netip.Addr{netip.MustParseAddr(lab.Pod4), netip.MustParseAddr(lab.Pod6)}

// TestSetup: an init container's CAP_NET_ADMIN is enough where the sysctls are
// right already; where they are not and cannot be written, they are named and
// nothing is changed.
func TestSetup(t *testing.T) {
	readOnly := []string{
		"unshare", "--mount", "sh", "-c",
		`mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec "$@"`, "sh",
	}
	for _, mode := range modes {
		for _, tc := range []struct {
			name   string
			front  []string
			preset bool
			fails  string
		}{
			{"sysctls preset", readOnly, true, ""},
			{"sysctls not preset", readOnly, false, "net.ipv4.tcp_fwmark_accept=1 net.ipv4.fwmark_reflect=1 net.ipv6.fwmark_reflect=1 net.ipv6.ip_nonlocal_bind=1"},
			{"privileged", nil, false, ""},
		} {
			t.Run(mode+" "+tc.name, func(t *testing.T) {
				pod := wired(t).Pod
				n := newTestNode(t)
				if tc.preset {
					for _, key := range redirect.Sysctls() {
						pod.Sysctl(key, "1")
					}
				}
				before := pod.Run("nft", "list", "ruleset") + pod.Run("ip", "rule")
				setup := func() (string, error) {
					user := lab.User{Caps: []string{"net_admin"}, NoNewPrivs: true}
					args := append(tc.front, user.Args(n.program(), "setup", "--mode", mode, "--include-inbound-ports", "80,8000-8099")...)
					cmd := exec.Command(args[0], args[1:]...)
					cmd.Env = append(os.Environ(), envRun+"=1", "TPROXY_EXCLUDE_INBOUND_PORTS=8001")
					return pod.TryCmd(cmd)
				}
				out, err := setup()
				if tc.fails != "" {
					if err == nil || !strings.Contains(out, tc.fails) || !strings.Contains(out, "securityContext.sysctls") {
						t.Errorf("%v\n%s", err, out)
					}
					if after := pod.Run("nft", "list", "ruleset") + pod.Run("ip", "rule"); after != before {
						t.Errorf("changed:\n%s", after)
					}
					return
				}
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				c := redirect.Default(mode)
				c.IncludePorts = []redirect.PortRange{{Low: 80, High: 80}, {Low: 8000, High: 8099}}
				c.ExcludePorts = []redirect.PortRange{{Low: 8001, High: 8001}}
				must(t, redirect.Check(pod.Path(), c, podAddresses))
				if out, err := setup(); err != nil { // the kubelet may run it again
					t.Errorf("twice: %v\n%s", err, out)
				}
				must(t, redirect.Check(pod.Path(), c, podAddresses))
			})
		}
	}
}
