package intercept

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestCheckAgain: what it remembers never hides anything: after each change it says
// what Check says.
func TestCheckAgain(t *testing.T) {
	lab.Need(t, "nft", "ip", "sysctl", "iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy")
	for _, mode := range []contract.Mode{contract.ModeNAT, contract.ModeTProxy} {
		t.Run(string(mode), func(t *testing.T) {
			pod, c := newPod(t), usual(t, mode)
			apply(t, pod, c)
			var k Checker
			var seen Seen
			again := func() string {
				t.Helper()
				err := k.CheckAgain(t.Context(), pod.Path(), c, required, &seen)
				if want := Check(pod.Path(), c, required); fmt.Sprint(err) != fmt.Sprint(want) {
					t.Errorf("CheckAgain says %v, Check %v", err, want)
				}
				return fmt.Sprint(err)
			}
			ended, end := context.WithCancel(t.Context())
			end()
			// It may have been through before it was interrupted: what it saw is not used.
			if err := k.CheckAgain(ended, pod.Path(), c, required, &Seen{}); !errors.Is(err, context.Canceled) {
				t.Errorf("CheckAgain with a context that has ended: %v", err)
			}
			for i := range 2 * mostSkips {
				if again(); seen.skipped != i%(mostSkips+1) {
					t.Fatalf("check %d: %d in a row did not read nftables", i, seen.skipped)
				}
			}
			for _, tt := range []struct{ names, change string }{
				{"lets uid 7089 open the spoofed leg is missing", "nft flush chain inet tproxy_cni spoofed"},
				{"table netdev tproxy_cni is missing", "nft delete table netdev tproxy_cni"},
				{"table inet tproxy_cni is missing", "nft flush ruleset"},
				{"holds 203.0.113.9", "nft add element inet tproxy_cni own4 { 203.0.113.9 }"},
				{"table inet tproxy_cni is dormant", "nft add table inet tproxy_cni { flags dormant; }"},
				{"table netdev tproxy_cni is dormant", "nft add table netdev tproxy_cni { flags dormant; }"},
				{"rule 1 of chain output", "nft insert rule inet tproxy_cni output accept"},
				{"suppress_prefixlength 0", "ip rule del pref 0 lookup local suppress_prefixlength 0"},
				{"ipv6 route", "ip -6 route flush table 29808"},
				{"fwmark_reflect is 0", "sysctl -qw net.ipv4.fwmark_reflect=0"},
				{"interface lo is down", "ip link set lo down"},
			} {
				if got := again(); got != "<nil>" {
					t.Fatalf("before %s: %s", tt.change, got)
				}
				pod.Run(strings.Fields(tt.change)...)
				for range 2 { // it is no less there the second time
					if got := again(); !strings.Contains(got, tt.names) {
						t.Errorf("%s: %s", tt.change, got)
					}
				}
				apply(t, pod, c)
			}
			for _, kind := range []string{"nft", "legacy"} { // of which the second knows no generations
				again()
				iptables(kind, "-t nat -A PREROUTING -p tcp -j REDIRECT --to-ports 15006")(pod)
				if got := again(); !strings.Contains(got, "redirects new connections to port 15006, as istio does") {
					t.Errorf("iptables-%s: %s", kind, got)
				}
				iptables(kind, "-t nat -F")(pod)
			}
			again()
			pod.Run("ip", "addr", "del", "10.1.0.2/24", "dev", "eth0")
			if got := again(); !strings.Contains(got, "set own4 of table inet tproxy_cni holds 10.1.0.2, which no interface has") {
				t.Errorf("an address that has gone: %s", got)
			}
		})
	}
}

// TestCheckerIsBounded: a Checker forgets, so that pods with settings of their own do
// not fill the memory, and goes on.
func TestCheckerIsBounded(t *testing.T) {
	pod, c := newPod(t), usual(t, contract.ModeNAT)
	var k Checker
	for i := range mostWanted + 2 {
		c.ExcludePorts = []PortRange{{Low: uint16(i + 1), High: uint16(i + 1)}}
		apply(t, pod, c)
		if err := k.Check(pod.Path(), c, required); err != nil || len(k.want) > mostWanted {
			t.Fatalf("%d settings: %d remembered, %v", i+1, len(k.want), err)
		}
	}
}
