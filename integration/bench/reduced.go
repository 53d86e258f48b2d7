package main

import (
	"errors"
	"regexp"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
)

// reduction removes a part of our rules, or adds conntrack, to show what that part
// costs. None of them is safe.
type reduction struct {
	name  string
	modes string // in which it can be done
	nft   string

	without *regexp.Regexp // is taken out of table inet as nft lists it, before nft is done
}

const bothModes = contract.ModeNAT + " " + contract.ModeTProxy

// reductions are in nft's own language; internal/intercept/README.md has the rules
// that they start from. "bare" is the least that works: interception, the mark
// that keeps the application's answers in the pod, and what the sidecar's probe of a
// prepared pod looks for.
var reductions = []reduction{
	{"no-counters", bothModes, "", regexp.MustCompile(`counter name "\w+" `)},
	{"no-own-port", bothModes, "", regexp.MustCompile(`(?m)^.*to its own port"\n`)},
	{"no-egress", bothModes, `delete table netdev tproxy_cni`, nil},
	{"no-output", bothModes, `
		flush chain inet tproxy_cni output
		add rule inet tproxy_cni output oifname "lo" goto loopback`, nil},
	{"no-fib", bothModes, `
		flush chain inet tproxy_cni loopback
		flush chain inet tproxy_cni to_own
		add rule inet tproxy_cni loopback ip saddr != @own4 ip saddr != 127.0.0.0/8 goto spoofed
		add rule inet tproxy_cni loopback ip6 saddr != @own6 ip6 saddr != ::1 goto spoofed
		add rule inet tproxy_cni loopback meta mark & 0x1000 == 0x1000 tcp flags & (syn | ack) != syn notrack accept`, nil},
	{"no-input", bothModes, `delete chain inet tproxy_cni input`, nil},
	{"no-forward", bothModes, `delete chain inet tproxy_cni forward`, nil},
	{"syn-only", contract.ModeTProxy, `
		flush chain inet tproxy_cni divert_in
		add rule inet tproxy_cni divert_in iifname "lo" meta mark & 0x1000 == 0x1000 tcp flags & (fin | syn | rst | ack) == syn socket transparent 1 reject with tcp reset
		add rule inet tproxy_cni divert_in iifname "eth0" tcp flags & (fin | syn | rst | ack) == syn goto inbound`, nil},
	{"conntrack", contract.ModeTProxy, conntracked, nil},
	{"conntrack-lo", contract.ModeTProxy, conntracked + `
		flush chain inet tproxy_cni loopback
		flush chain inet tproxy_cni spoofed
		add rule inet tproxy_cni loopback ip saddr != @own4 ip saddr != 127.0.0.0/8 fib saddr . oif type local goto spoofed
		add rule inet tproxy_cni loopback ip6 saddr != @own6 fib saddr type != local goto spoofed
		add rule inet tproxy_cni loopback meta mark & 0x1000 == 0x1000 tcp flags & (syn | ack) != syn accept
		add rule inet tproxy_cni loopback jump to_own
		add rule inet tproxy_cni spoofed meta skuid != 7089 drop
		add rule inet tproxy_cni spoofed jump to_own
		add rule inet tproxy_cni spoofed tcp flags & (syn | ack) == syn meta skuid 7089 meta mark set meta mark | 0x1000 accept
		add rule inet tproxy_cni spoofed tcp flags & (syn | ack) == syn drop
		add rule inet tproxy_cni spoofed meta l4proto tcp meta mark set meta mark | 0x1000 accept`, nil},
	{"bare", contract.ModeNAT, bare + `
		add rule inet tproxy_cni redirect_in iifname "eth0" tcp flags & (fin | syn | rst | ack) == syn redirect to :5000
		add rule inet tproxy_cni output oifname "lo" meta mark & 0x1000 == 0x1000 notrack accept
		add rule inet tproxy_cni output oifname "lo" ip saddr != @own4 ip saddr != 127.0.0.0/8 goto spoofed
		add rule inet tproxy_cni output oifname "lo" ip6 saddr != @own6 ip6 saddr != ::1 goto spoofed
		add rule inet tproxy_cni spoofed tcp flags & (syn | ack) == syn meta skuid 7089 meta mark set 0x1000
		add rule inet tproxy_cni spoofed notrack`, nil},
	{"bare", contract.ModeTProxy, bare + `
		add rule inet tproxy_cni divert_in iifname "eth0" tcp flags & (fin | syn | rst | ack) == syn tproxy to :5000
		add rule inet tproxy_cni divert_in tcp flags & (fin | syn | rst | ack) == syn meta mark & 0x1000 == 0x1000 socket transparent 1 reject with tcp reset
		add rule inet tproxy_cni output tcp flags & (syn | ack) == syn meta skuid 7089 meta mark set 0x1000`, nil},
}

// bare leaves empty hooks for interception and output.
const bare = `
		delete table netdev tproxy_cni
		flush table inet tproxy_cni
		delete chain inet tproxy_cni input
		delete chain inet tproxy_cni forward`

// conntracked makes conntrack track the pod's packets, as any rule does that matches
// their state.
const conntracked = `
		table inet asks {
			chain prerouting {
				type filter hook prerouting priority filter
				ct state established accept
			}
		}`

// reducedVariants are a sidecar's variants in one mode with reduced rules.
func reducedVariants(full variant, mode string) (all []variant) {
	for _, r := range reductions {
		if !strings.Contains(r.modes, mode) {
			continue
		}
		v := full
		v.name, v.role, v.full = full.name+"-"+r.name, reduced, full.name
		v.rules = func(s *site) error {
			if err := intercept.Apply(s.net.Pod.Path(), intercept.Default(contract.Mode(mode))); err != nil {
				return err
			}
			script := r.nft
			if r.without != nil {
				listing := s.net.Pod.Run("nft", "-s", "list", "table", "inet", contract.Table)
				reduced := r.without.ReplaceAllString(listing, "")
				if reduced == listing {
					return errors.New(r.name + " takes nothing out")
				}
				script = "delete table inet " + contract.Table + "\n" + reduced + script
			}
			return s.batch(s.net.Pod, script, "nft", "-f", "-")
		}
		all = append(all, v)
	}
	return all
}
