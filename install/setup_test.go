package main

import (
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/install/preflight"
	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
	"github.com/tproxy-cni/tproxy-cni/internal/lacks"
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

// TestSetup: an init container needs only CAP_NET_ADMIN if the sysctls are set
// already; if they are not and cannot be written, the error names them and
// nothing is changed.
func TestSetup(t *testing.T) {
	readOnly := []string{
		"unshare", "--mount", "sh", "-c",
		`mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec "$@"`, "sh",
	}
	for _, mode := range preflight.Modes() {
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
					needed, err := intercept.WrongSysctls(pod.Path())
					must(t, err)
					for _, key := range needed {
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
				if tc.front != nil && mode == contract.ModeNAT {
					// It works without these, and leaves them as they are.
					const timeout = "net.netfilter.nf_conntrack_tcp_timeout_"
					for key, on := range map[string]string{
						timeout + "close_wait": "300", timeout + "last_ack": "300", timeout + "fin_wait": "300",
						"net.ipv4.tcp_early_demux": "0",
					} {
						if now := strings.TrimSpace(pod.Run("sysctl", "-n", key)); now == on {
							t.Errorf("%s is %s although /proc/sys is read-only", key, now)
						}
						pod.Sysctl(key, on)
					}
				}
				c := intercept.Default(contract.Mode(mode))
				c.IncludePorts = []intercept.PortRange{{Low: 80, High: 80}, {Low: 8000, High: 8099}}
				c.ExcludePorts = []intercept.PortRange{{Low: 8001, High: 8001}}
				must(t, intercept.Check(pod.Path(), c, podAddresses))
				if out, err := setup(); err != nil { // the kubelet may run it again
					t.Errorf("twice: %v\n%s", err, out)
				}
				must(t, intercept.Check(pod.Path(), c, podAddresses))
			})
		}
	}
}

// TestSetupGuard: setup says which packet guard the pod has where that is not the whole
// one, and fails where that is required.
func TestSetupGuard(t *testing.T) {
	for name, tc := range map[string]struct {
		guard, lacks string
		want         string // empty if it says nothing of a guard
		fails        bool
	}{
		"required": {contract.PacketGuardRequired, lacks.Egress, "packet guard: this kernel lacks the " + intercept.EgressHook, true},
		"tc":       {contract.PacketGuardBestEffort, lacks.Egress, "packet guard tc, a filter in place of the " + intercept.EgressHook, false},
		"none":     {contract.PacketGuardBestEffort, lacks.Egress + "," + lacks.TC, "packet guard none, in place of the " + intercept.EgressHook, false},
		"whole":    {contract.PacketGuardBestEffort, "", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			pod := wired(t).Pod
			if tc.lacks == "" {
				lab.NeedKernel(t, lab.EgressHook)
			}
			cmd := exec.Command(newTestNode(t).program(), "setup", "--mode", contract.ModeNAT, "--packet-guard", tc.guard)
			cmd.Env = append(os.Environ(), envRun+"=1", envLacks+"="+tc.lacks)
			out, err := pod.TryCmd(cmd)
			if (err != nil) != tc.fails || !strings.Contains(out, tc.want) || tc.want == "" && strings.Contains(out, "packet guard") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
