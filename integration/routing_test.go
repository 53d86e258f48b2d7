package integration

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// The second network's.
const (
	net14, net16             = "192.168.3.0/24", "fd00:3::/64"
	secondPod4, secondPod6   = "192.168.3.2", "fd00:3::2"
	vpnPod4, vpnPod6, vpnEnd = "10.9.0.2/24", "fd00:9::2/64", "wg0"
)

var sbr = map[string]any{"type": "sbr"}

// TestSourceBasedRouting: interception goes on with the rules of the CNI project's sbr,
// before and behind us in the chain, and tuning with it.
func TestSourceBasedRouting(t *testing.T) {
	tuning := map[string]any{"type": "tuning", "sysctl": map[string]string{"net.ipv4.conf.all.arp_filter": "1"}}
	for name, s := range map[string]setup{
		"before":         {before: []any{sbr, tuning}},
		"behind":         {after: []any{sbr, tuning}},
		"before, 0.3.0":  {before: []any{sbr, tuning}, version: "0.3.0"},
		"behind, bridge": {after: []any{sbr}, chain: "bridge"},
	} {
		t.Run(name, func(t *testing.T) {
			inModes(t, s, func(t *testing.T, p *pod) {
				p.nginx(t)
				p.wantStable(t)
				p.mustCNI("del")
				p.wantKernelRules(t)
			})
		})
	}
}

// TestSecondNetwork: a second network's ADD, as Multus does it, with sbr and with us in
// its chain or not, takes nothing from the first one.
func TestSecondNetwork(t *testing.T) {
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		p.nginx(t)
		second := p.second(t, sbr)
		second.Run("add")
		p.wantStable(t)
		for _, to := range []string{secondPod4, secondPod6} { // not intercepted
			for _, f := range p.fams() {
				if strings.Contains(to, ":") == (f.name == "IPv6") {
					conn, err := p.Client.Dial("tcp", f.client, addr(to, webPort))
					if err != nil {
						t.Fatal(err)
					}
					if saw, err := ask(conn); err != nil || saw != conn.LocalAddr().String() {
						t.Errorf("%s: the application saw %s: %v", to, saw, err)
					}
					conn.Close()
				}
			}
		}
		second.Run("del")
		p.ours(t, "ADD") // forgets the second network's addresses
		p.wantStable(t)

		third := p.second(t, sbr, p.ourEntry())
		if out, err := third.Try("add"); err == nil || !strings.Contains(out, "intercepted on eth0 already") {
			t.Errorf("we in a second network's chain: %v %s", err, out)
		}
		third.Run("del")
		p.wantStable(t)
	})
}

// second is another network of the pod's.
func (p *pod) second(t *testing.T, chained ...any) lab.Attachment {
	t.Helper()
	a := p.attachment()
	a.Interface = "net1"
	a.CNI = lab.NewCNI(t, lab.Conflist{Version: p.version, Subnets: []string{net14, net16}, Chained: chained}, filepath.Dir(bin(t, "cnitool")))
	return a
}

// vpns are what VPN software adds to a pod's rules, a line each; P is the pod's address,
// and FAMILY -4 or -6. Table 51820 and the others lead into wg0, which answers nothing.
var vpns = map[string]string{
	// wg-quick(8), with AllowedIPs = 0.0.0.0/0, ::/0; Mullvad's daemon adds the same.
	"wg-quick": `ip FAMILY route add default dev wg0 table 51820
		ip FAMILY rule add not fwmark 51820 table 51820
		ip FAMILY rule add table main suppress_prefixlength 0`,
	"tailscale": `ip FAMILY rule add pref 5210 fwmark 0x80000/0xff0000 table main
		ip FAMILY rule add pref 5230 fwmark 0x80000/0xff0000 table default
		ip FAMILY rule add pref 5250 fwmark 0x80000/0xff0000 unreachable
		ip FAMILY rule add pref 5270 table 52
		ip FAMILY route add default dev wg0 table 52`,
	"strongswan": `ip FAMILY rule add pref 220 table 220
		ip FAMILY route add default dev wg0 table 220`,
	"by source": `ip FAMILY rule add from P table 10
		ip FAMILY route add default dev wg0 table 10`,
	"all, at priority 0": `ip FAMILY rule add pref 0 table 10
		ip FAMILY route add default dev wg0 table 10`,
	"by mark": `ip FAMILY rule add fwmark 0x1000/0xf000 table 10
		ip FAMILY route add default dev wg0 table 10`,
	"gluetun": `ip FAMILY rule add pref 100 from P table 200
		ip FAMILY rule add pref 101 not fwmark 51820 table 51820
		ip FAMILY route add default dev wg0 table 51820`,
}

// TestVPN: rules that come after ADD do not take the pod from its clients, and none of
// what the pod sends to them goes into the tunnel.
func TestVPN(t *testing.T) {
	for name, script := range vpns {
		t.Run(name, func(t *testing.T) {
			inModes(t, setup{}, func(t *testing.T, p *pod) {
				p.nginx(t)
				p.tunnel()
				for range 2 {
					p.script(script)
				}
				p.wantStable(t)
				p.wantNothingInTunnel(t)
			})
		})
	}
}

// TestVPNBeforeADD: the same where such rules were there first, ahead of the kernel's
// own or in several copies.
func TestVPNBeforeADD(t *testing.T) {
	scripts := map[string]string{
		"copies of the kernel's rule": `ip FAMILY rule add pref 0 table local protocol static
			ip FAMILY rule add pref 0 table local protocol boot`,
		"behind the kernel's rule": `ip FAMILY rule add pref 0 from P table 10
			ip FAMILY rule add pref 0 not fwmark 51820 table 10
			ip FAMILY route add default dev wg0 table 10`,
	}
	for name, script := range vpns {
		scripts[name] = script
	}
	for name, script := range scripts {
		t.Run(name, func(t *testing.T) {
			for _, mode := range []string{contract.ModeNAT, contract.ModeTProxy} {
				t.Run(mode, func(t *testing.T) {
					t.Parallel()
					p := newPod(t, setup{bare: true})
					p.tunnel()
					p.script(script)
					p.mode = mode
					p.ours(t, "ADD")
					p.start()
					p.nginx(t)
					p.wantStable(t)
					p.wantNothingInTunnel(t)
				})
			}
		})
	}
}

// tunnel gives the pod wg0, whose other end answers nothing.
func (p *pod) tunnel() {
	p.t.Helper()
	end := lab.New(p.t, "tunnel").Up()
	lab.Veth(p.Pod, vpnEnd, end, "end")
	p.Pod.Addr(vpnEnd, vpnPod4, vpnPod6)
	p.Pod.Run("nft", "add table inet tunnel; add chain inet tunnel out { type filter hook postrouting priority 0; }; "+
		"add counter inet tunnel leaked; add rule inet tunnel out oifname "+vpnEnd+" meta l4proto tcp counter name leaked")
}

func (p *pod) script(text string) {
	p.t.Helper()
	for _, f := range p.fams() {
		option := map[string]string{"IPv4": "-4", "IPv6": "-6"}[f.name]
		for line := range strings.Lines(text) {
			words := strings.Fields(strings.NewReplacer("FAMILY", option, " P ", " "+f.pod+" ").Replace(line))
			out, err := p.Pod.Try(words...)
			if err != nil && !strings.Contains(out, "File exists") {
				p.t.Fatalf("%s: %v\n%s", line, err, out)
			}
		}
	}
}

func (p *pod) wantNothingInTunnel(t *testing.T) {
	t.Helper()
	if out := p.Pod.Run("nft", "list", "counter", "inet", "tunnel", "leaked"); !strings.Contains(out, "packets 0 ") {
		t.Errorf("sent into the tunnel: %s", out)
	}
}

// wantStable: clients of both families reach the application through the sidecar, CHECK
// agrees, and a repair changes no rule.
func (p *pod) wantStable(t *testing.T) {
	t.Helper()
	p.inFamilies(t, p.wantExact)
	p.waitReady()
	before := p.rules()
	if !strings.HasPrefix(p.version, "0.3.") { // which have no CHECK
		p.ours(t, "CHECK")
	}
	p.ours(t, "ADD")
	if diff := cmp.Diff(before, p.rules()); diff != "" {
		t.Errorf("a repair that was not needed: %s", diff)
	}
	p.inFamilies(t, p.wantExact)
	if out := p.Pod.Run("nft", "list", "counter", "inet", contract.Table, "spoofed"); strings.Contains(out, "packets 0 ") {
		t.Errorf("past the sidecar: %s", out)
	}
}

func (p *pod) rules() string { return p.Pod.Run("ip", "-4", "rule") + p.Pod.Run("ip", "-6", "rule") }

// wantKernelRules: the rules are those of a new namespace.
func (p *pod) wantKernelRules(t *testing.T) {
	t.Helper()
	fresh := lab.New(t, "fresh")
	for _, f := range []string{"-4", "-6"} {
		want, got := fresh.Run("ip", "-d", f, "rule"), p.Pod.Run("ip", "-d", f, "rule")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("rules after DEL (-new namespace +pod): %s", diff)
		}
	}
}

// TestUpgradeOfRules: a pod that an earlier version programmed, with rules of priority 1
// and 2, is brought up to date while clients come, without one of them noticing.
func TestUpgradeOfRules(t *testing.T) {
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		p.nginx(t)
		stop := []func(){p.hammer(t, v4), p.hammer(t, v6)}
		for range 5 {
			p.downgradeRules()
			if out, err := p.cni("check"); err == nil {
				t.Fatalf("check finds nothing: %s", out)
			}
			p.ours(t, "ADD")
			p.ours(t, "CHECK")
		}
		p.downgradeRules()
		for _, end := range stop {
			end()
		}
		p.mustCNI("del")
		p.wantKernelRules(t)
	})
}

// downgradeRules makes the rules those of an earlier version, as gently.
func (p *pod) downgradeRules() {
	p.t.Helper()
	mark := fmt.Sprintf("fwmark %#[1]x/%#[1]x", contract.Mark)
	for _, f := range []string{"-4", "-6"} {
		ip := func(args string) { p.Pod.Run(append([]string{"ip", f, "rule"}, strings.Fields(args)...)...) }
		ip("add pref 1 " + mark + " table 29808")
		ip("add pref 1 " + mark + " unreachable")
		if f == "-4" {
			ip("add pref 2 table local suppress_prefixlength 0")
			ip("del pref 0 table local suppress_prefixlength 0")
		}
		ip("del pref 0 " + mark + " unreachable")
		ip("del pref 0 " + mark + " table 29808")
		ip(fmt.Sprintf("del pref 0 uidrange %[1]d-%[1]d table main", contract.ProxyUID))
	}
}

// hammer connects time and again until stop is called, or the test ends.
func (p *pod) hammer(t *testing.T, f family) (stop func()) {
	t.Helper()
	n := 0
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			default:
			}
			p.wantExact(t, f)
			n++
		}
	}()
	end := sync.OnceFunc(func() {
		close(done)
		<-ended
	})
	t.Cleanup(end) // nothing may use t after the test
	return func() {
		t.Helper()
		if end(); n == 0 {
			t.Error("no client came")
		}
	}
}
