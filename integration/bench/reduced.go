package main

import (
	"strings"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/plugin/redirect"
)

// reduction takes a part out of our rules, or adds conntrack, so that a run
// tells what that part costs. None of them is safe.
type reduction struct {
	name  string
	modes string // in which it can be done
	nft   string
}

const bothModes = contract.ModeNAT + " " + contract.ModeTProxy

// reductions are in nft's own language; plugin/redirect/README.md has the rules
// that they start from. "bare" is the least that works: interception, the mark
// that keeps the application's answers in the pod, and what the sidecar tells by
// whether a pod is prepared.
var reductions = []reduction{
	{"no-egress", bothModes, `delete table netdev tproxy_cni`},
	{"no-output", bothModes, `
		flush chain inet tproxy_cni output
		add rule inet tproxy_cni output oifname "lo" goto loopback`},
	{"no-fib", bothModes, `
		flush chain inet tproxy_cni loopback
		add rule inet tproxy_cni loopback meta mark & 0x1000 == 0x1000 tcp flags & (syn | ack) != syn notrack accept
		add rule inet tproxy_cni loopback ip saddr != @own4 ip saddr != 127.0.0.0/8 goto spoofed
		add rule inet tproxy_cni loopback ip6 saddr != @own6 ip6 saddr != ::1 goto spoofed`},
	{"no-input", bothModes, `delete chain inet tproxy_cni input`},
	{"no-forward", bothModes, `delete chain inet tproxy_cni forward`},
	{"syn-only", contract.ModeTProxy, `
		flush chain inet tproxy_cni divert_in
		add rule inet tproxy_cni divert_in iifname "lo" meta mark & 0x1000 == 0x1000 tcp flags & (fin | syn | rst | ack) == syn socket transparent 1 reject with tcp reset
		add rule inet tproxy_cni divert_in iifname "eth0" tcp flags & (fin | syn | rst | ack) == syn goto inbound`},
	{"conntrack", contract.ModeTProxy, conntracked},
	{"conntrack-lo", contract.ModeTProxy, conntracked + `
		flush chain inet tproxy_cni loopback
		flush chain inet tproxy_cni spoofed
		add rule inet tproxy_cni loopback meta mark & 0x1000 == 0x1000 tcp flags & (syn | ack) != syn accept
		add rule inet tproxy_cni loopback ip daddr != @own4 ip daddr != @later4 ip daddr != 127.0.0.0/8 fib daddr . oif type local drop
		add rule inet tproxy_cni loopback ip6 daddr != @own6 ip6 daddr != ff00::/8 fib daddr type != local drop
		add rule inet tproxy_cni loopback ip saddr != @own4 ip saddr != @later4 ip saddr != 127.0.0.0/8 fib saddr . oif type local goto spoofed
		add rule inet tproxy_cni loopback ip6 saddr != @own6 fib saddr type != local goto spoofed
		add rule inet tproxy_cni spoofed tcp flags & (syn | ack) == syn meta skuid 7089 meta mark set meta mark | 0x1000 accept
		add rule inet tproxy_cni spoofed tcp flags & (syn | ack) == syn drop
		add rule inet tproxy_cni spoofed meta l4proto tcp meta mark set meta mark | 0x1000 accept`},
	{"bare", contract.ModeNAT, bare + `
		add rule inet tproxy_cni redirect_in iifname "eth0" tcp flags & (fin | syn | rst | ack) == syn redirect to :5000
		add rule inet tproxy_cni output oifname "lo" meta mark & 0x1000 == 0x1000 notrack accept
		add rule inet tproxy_cni output oifname "lo" ip saddr != @own4 ip saddr != 127.0.0.0/8 goto spoofed
		add rule inet tproxy_cni output oifname "lo" ip6 saddr != @own6 ip6 saddr != ::1 goto spoofed
		add rule inet tproxy_cni spoofed tcp flags & (syn | ack) == syn meta skuid 7089 meta mark set 0x1000
		add rule inet tproxy_cni spoofed notrack`},
	{"bare", contract.ModeTProxy, bare + `
		add rule inet tproxy_cni divert_in iifname "eth0" tcp flags & (fin | syn | rst | ack) == syn tproxy to :5000
		add rule inet tproxy_cni divert_in tcp flags & (fin | syn | rst | ack) == syn meta mark & 0x1000 == 0x1000 socket transparent 1 reject with tcp reset
		add rule inet tproxy_cni output tcp flags & (syn | ack) == syn meta skuid 7089 meta mark set 0x1000`},
}

// bare leaves the hooks of interception and of output, without a rule.
const bare = `
		delete table netdev tproxy_cni
		flush table inet tproxy_cni
		delete chain inet tproxy_cni input
		delete chain inet tproxy_cni forward`

// conntracked has conntrack look at the pod's packets: it does as soon as a
// rule asks for what it knows.
const conntracked = `
		table inet asks {
			chain prerouting {
				type filter hook prerouting priority filter
				ct state established accept
			}
		}`

// reducedVariants are a sidecar's in one mode, on our rules reduced.
func reducedVariants(full variant, mode string) (all []variant) {
	for _, r := range reductions {
		if !strings.Contains(r.modes, mode) {
			continue
		}
		v := full
		v.name, v.role, v.full = full.name+"-"+r.name, reduced, full.name
		v.rules = func(s *site) error {
			if err := redirect.Apply(s.net.Pod.Path(), redirect.Default(mode)); err != nil {
				return err
			}
			return s.batch(s.net.Pod, r.nft, "nft", "-f", "-")
		}
		all = append(all, v)
	}
	return all
}
