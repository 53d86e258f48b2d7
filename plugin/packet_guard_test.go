package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/programs"
)

// TestPacketGuard: on a kernel without the hook for the whole packet guard ADD fails and
// names it, unless the node or the pod says that less will do; then it says which guard is
// in force, CHECK is content, and DEL leaves nothing. A pod takes back nothing that the
// node's entry requires.
func TestPacketGuard(t *testing.T) {
	with := func(in object, key, value string) object { in[key] = value; return in }
	for _, features := range programs.Lacking {
		says := "packet guard tc, a filter in place of the nft netdev egress hook (Linux 5.16 with CONFIG_NETFILTER_EGRESS)"
		if strings.Contains(features, ",tc") {
			says = "packet guard none, in place of the nft netdev egress hook (Linux 5.16 with CONFIG_NETFILTER_EGRESS) (and no tc: "
		}
		for _, mode := range []string{contract.ModeNAT, contract.ModeTProxy} {
			t.Run(mode+" lacks "+features, func(t *testing.T) {
				n := newPod(t)
				n.Pod.Up()
				before := state(n.Pod)
				verb := func(command string, in object) answer {
					return call{command: command, netns: n.Pod.Path(), stdin: in, lacks: features}.run(t, n.Node)
				}
				for name, in := range map[string]object{
					"by default":   conf("1.1.0", dual, annotated("mode", mode)),
					"by the entry": with(conf("1.1.0", dual, annotated("mode", mode, "packet-guard", contract.PacketGuardBestEffort)), "packetGuard", contract.PacketGuardRequired),
					"by the pod":   with(conf("1.1.0", dual, annotated("mode", mode, "packet-guard", contract.PacketGuardRequired)), "packetGuard", contract.PacketGuardBestEffort),
				} {
					a := verb("ADD", in)
					if a.code != errKernel || !strings.Contains(a.msg, "lacks the nft netdev egress hook (Linux 5.16 with CONFIG_NETFILTER_EGRESS)") ||
						!strings.Contains(a.msg, "packetGuard to best-effort") {
						t.Errorf("required %s: %+v", name, a)
					}
					if diff := cmp.Diff(before, state(n.Pod)); diff != "" {
						t.Errorf("required %s, before and after the ADD:\n%s", name, diff)
					}
				}
				for name, in := range map[string]object{
					"by the entry": with(conf("1.1.0", dual, annotated("mode", mode)), "packetGuard", contract.PacketGuardBestEffort),
					"by the pod":   conf("1.1.0", dual, annotated("mode", mode, "packet-guard", contract.PacketGuardBestEffort)),
				} {
					a := verb("ADD", in)
					if a.failed || !strings.Contains(a.stderr, says) || strings.Count(a.stderr, "\n") != 1 {
						t.Errorf("best effort %s: %+v", name, a)
					}
					if a := verb("CHECK", in); a.failed {
						t.Errorf("best effort %s: CHECK: %+v", name, a)
					}
					if a := verb("DEL", in); a.failed || a.stderr != "" {
						t.Errorf("best effort %s: DEL: %+v", name, a)
					}
					if out := n.Pod.Run("tc", "qdisc", "show", "dev", "eth0") + n.Pod.Run("nft", "list", "ruleset"); strings.Contains(out, "clsact") || strings.Contains(out, contract.Table) {
						t.Errorf("best effort %s: DEL leaves %s", name, out)
					}
				}
			})
		}
	}
}
