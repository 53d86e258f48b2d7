package main

import (
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/proxy/probe"
)

// drifts are what may happen to the plugin's work while the sidecar runs, with the
// command that does it.
var drifts = []struct {
	name, command string
	reason        probe.Reason
	text          string // of /readyz
}{
	{"chain spoofed is empty", "nft flush chain inet tproxy_cni spoofed", probe.Rules, "nftables table is missing, or not as the plugin made it"},
	{"no ruleset", "nft flush ruleset", probe.Rules, "IPv4 and IPv6: "},
	{"no ip rules of IPv4", withoutMarkedRules("-4"), probe.Routing, "not ready: IPv4: "},
	{"no ip rules of IPv6", withoutMarkedRules("-6"), probe.Routing, "not ready: IPv6: "},
	{"no routes for marked packets", "ip -4 route flush table 29808", probe.Routing, "has no route"},
	{"no route that makes clients local", "ip -4 route del local default dev lo table local", probe.Unprepared, "has not prepared"},
	{"fwmark_reflect of IPv4", "sysctl -qw net.ipv4.fwmark_reflect=0", probe.Sysctl, "IPv4: sysctl net.ipv4.fwmark_reflect is 0, not 1"},
	{"tcp_fwmark_accept", "sysctl -qw net.ipv4.tcp_fwmark_accept=0", probe.Sysctl, "IPv4 and IPv6: sysctl net.ipv4.tcp_fwmark_accept is 0, not 1"},
}

// withoutMarkedRules deletes the rules for marked packets: ip rule flush leaves those of
// priority 0.
func withoutMarkedRules(family string) string {
	mark := fmt.Sprintf("ip %s rule del pref 0 fwmark %#x/%#[2]x ", family, contract.Mark)
	return mark + fmt.Sprint("table ", contract.RouteTable) + "; " + mark + "unreachable"
}

// TestDrift: when what the plugin has programmed goes away under a running sidecar,
// it is not ready any more, says why and what to do, and refuses clients; once all is
// there again it is ready. Connections that wait meanwhile live on.
func TestDrift(t *testing.T) {
	inModes(t, func(t *testing.T, p *pod) {
		a := p.listen(t, 0).echo()
		for _, drift := range drifts {
			t.Run(drift.name, func(t *testing.T) {
				var old []*net.TCPConn
				for _, f := range []ipFamily{ip4, ip6} {
					c := p.dial(t, f, a.port)
					// A probe would find no rules, and be answered by a reset: so would data.
					_ = c.SetKeepAlive(false)
					exchange(t, c, "before")
					old = append(old, c)
				}
				p.Pod.Run("sh", "-ec", drift.command)
				since := time.Now()
				p.wantPorts(t, a.port) // while the check waits for its own connections
				p.wantNotReady(t, drift.text)
				broken := time.Since(since)
				_, body := p.admin("/readyz")
				if !strings.Contains(body, "\nwhat to do: ") || !strings.Contains(body, "--repair") {
					t.Errorf("no cure: %s", body)
				}
				p.sidecar.WaitLog(fmt.Sprintf("reason=%s err=", drift.reason))
				if out, err := p.command("check", "--mode", p.mode); err == nil || !strings.Contains(body, strings.TrimPrefix(firstLine(out), "not prepared: ")) {
					t.Errorf("check: %v: %s, and /readyz: %s", err, out, body)
				}
				p.apply(p.config())
				since = time.Now()
				p.waitReady()
				t.Logf("not ready after %v, ready after %v", broken.Round(time.Millisecond), time.Since(since).Round(time.Millisecond))
				if out, err := p.command("check", "--mode", p.mode); err != nil {
					t.Errorf("check: %v: %s", err, out)
				}
				inFamilies(t, func(t *testing.T, f ipFamily) { exchange(t, p.dial(t, f, a.port), "after") })
				for _, c := range old {
					exchange(t, patient(t, c), "still here")
				}
			})
		}
	})
}

// wantPorts wants the sidecar to show its own listeners and the application's, and no
// other, until it is not ready.
func (p *pod) wantPorts(t *testing.T, application int) {
	t.Helper()
	port := regexp.MustCompile(`(?m)^tproxy_proxy_accept_queue_limit\{port="(\d+)"\}`)
	lab.Eventually(t, "not ready", func() error {
		_, text := p.admin("/metrics")
		shown := port.FindAllStringSubmatch(text, -1)
		for _, m := range shown {
			if !slices.Contains([]string{fmt.Sprint(contract.ProxyPort), fmt.Sprint(contract.AdminPort), fmt.Sprint(application)}, m[1]) {
				t.Errorf("nobody knows port %s", m[1])
			}
		}
		if len(shown) != 3 || !strings.Contains(text, "\ntproxy_proxy_ready 0\n") {
			return fmt.Errorf("%d ports, or ready: %s", len(shown), text)
		}
		return nil
	})
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// TestCheck: what a startup probe of another proxy gets, before that proxy listens.
func TestCheck(t *testing.T) {
	for _, mode := range []string{contract.ModeNAT, contract.ModeTProxy} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			p := bare(t, mode)
			other := map[string]string{contract.ModeNAT: contract.ModeTProxy, contract.ModeTProxy: contract.ModeNAT}[mode]
			check := func(uid int, status, want string, args ...string) {
				t.Helper()
				out, err := p.Pod.TryAs(lab.User{UID: uid, NoNewPrivs: true}, sidecarCommand(t, append([]string{"check"}, args...)...)...)
				if got := fmt.Sprint(err); !strings.Contains(got, status) || !strings.Contains(out, want) {
					t.Errorf("check %q as %d: %s, %s; want %s, %s", args, uid, got, out, status, want)
				}
			}
			check(contract.ProxyUID, "exit status 1", "not prepared: IPv4 and IPv6: the kernel refuses the client's address as a source", "--mode", mode)
			p.apply(p.config())
			check(contract.ProxyUID, "<nil>", "prepared: "+mode+" mode, for uid 7089\n", "--mode", mode)
			check(contract.ProxyUID, "exit status 1", "for another mode", "--mode", other)
			check(99, "exit status 1", "the plugin's proxy-uid is not this process's 99", "--mode", mode)
			check(contract.ProxyUID, "exit status 2", "want nat or tproxy", "--mode", "x")
			check(contract.ProxyUID, "exit status 2", `unexpected argument "now"`, "now")

			// A proxy that listens: by its port, too.
			p.start()
			p.waitReady()
			check(contract.ProxyUID, "<nil>", "prepared: ", "--mode", mode)
			check(contract.ProxyUID, "exit status 1", "the plugin's proxy-port is not this process's 5001", "--mode", mode, "--addr", ":5001")
		})
	}
}

// TestWrongPort: the rules send clients to another port. The sidecar is not ready, however
// fast it resets the check's connection: each check is one more try.
func TestWrongPort(t *testing.T) {
	for _, mode := range []string{contract.ModeNAT, contract.ModeTProxy} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			p := prepared(t, mode)
			p.startAs(p.user(), "--addr", ":5005")
			p.sidecar.WaitListen(5005, contract.AdminPort)
			const reason = "the plugin's proxy-port is not this process's 5005"
			p.wantNotReady(t, reason)
			for range 20 {
				if out, err := p.command("check", "--mode", mode, "--addr", ":5005"); err == nil || !strings.Contains(out, reason) {
					t.Fatalf("check: %v, %s", err, out)
				}
			}
			p.wantNotReady(t, reason)
			if strings.Contains(p.sidecar.Output(), "ready: the plugin has prepared") {
				t.Errorf("it was ready:\n%s", p.sidecar.Output())
			}
		})
	}
}

// TestUnseen: rules for what comes in may go away without being seen from within the
// pod. Then clients are refused; none reaches the application past the sidecar.
func TestUnseen(t *testing.T) {
	chains := map[string][]string{contract.ModeNAT: {"redirect_in", "inbound"}, contract.ModeTProxy: {"divert_in", "inbound"}}
	inModes(t, func(t *testing.T, p *pod) {
		a := p.listen(t, 0).echo()
		for _, chain := range chains[p.mode] {
			p.Pod.Run("nft", "flush", "chain", "inet", contract.Table, chain)
			inFamilies(t, func(t *testing.T, f ipFamily) { p.wantRefused(t, f, a.port) })
			if out, err := p.command("check", "--mode", p.mode); err != nil {
				t.Errorf("the check sees it: say so in docs/REFERENCE.md: %s", out)
			}
			p.apply(p.config())
			inFamilies(t, func(t *testing.T, f ipFamily) { exchange(t, p.dial(t, f, a.port), "after") })
		}
	})
}
