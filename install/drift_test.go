package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
	"github.com/tproxy-cni/tproxy-cni/internal/programs"
)

// drifts are what a root of the node or of a pod does to a pod, and what CHECK
// calls it.
var drifts = []struct{ change, names string }{
	{"nft flush chain inet tproxy_cni spoofed", "the rule of chain spoofed that lets uid 7089 open the spoofed leg is missing"},
	{"ip rule del pref 0 fwmark 0x1000/0x1000 lookup 29808", `ipv4 rule \"0: from all fwmark 0x1000/0x1000 lookup 29808\" is missing`},
	{"ip -6 rule del pref 0 fwmark 0x1000/0x1000 lookup 29808", `ipv6 rule \"0: from all fwmark 0x1000/0x1000 lookup 29808\" is missing`},
	{"sysctl -qw net.ipv4.fwmark_reflect=0", "sysctl net.ipv4.fwmark_reflect is 0, not 1"},
	{"nft flush ruleset", "table inet tproxy_cni is missing"},
	{"nft insert rule inet tproxy_cni output accept", "rule 1 of chain output of table inet tproxy_cni is unexpected"},
	{"ip route flush table 29808", `ipv4 route \"local default dev lo table 29808\" is missing`},
	{"ip -6 route flush table 29808", `ipv6 route \"local default dev lo table 29808\" is missing`},
}

// client is nc in a connection to an application that says first who it sees, and
// then says everything again.
type client struct {
	*lab.Proc
	in io.Writer
}

// dialEcho connects from an address, and sees to it that the application sees that.
func dialEcho(t *testing.T, n *lab.Net, from, to string) client {
	t.Helper()
	cmd := exec.Command("nc", "-s", from, to, "8080")
	in, err := cmd.StdinPipe()
	must(t, err)
	c := client{n.Client.StartCmd(cmd), in}
	c.wantEcho(t, "hello")
	seen, _, _ := strings.Cut(c.Output(), "\n")
	if a, err := netip.ParseAddr(strings.Trim(seen, "[]")); err != nil || a.Unmap() != netip.MustParseAddr(from) {
		t.Errorf("%s: the application sees %q (%v)", from, c.Output(), err)
	}
	return c
}

func (c client) wantEcho(t *testing.T, text string) {
	t.Helper()
	_, err := fmt.Fprintln(c.in, text)
	must(t, err)
	lab.Eventually(t, text+" comes back", func() error {
		if !strings.Contains(c.Output(), text+"\n") {
			return fmt.Errorf("%q", c.Output())
		}
		return nil
	})
}

// TestDrift: whatever changes in a pod, the installer sees it by itself, says which
// pod and what, and mends it under running connections: for a pod with the
// annotation, and for one that was intercepted by the node's default. The
// application is socat, the sidecar the real one, the client nc.
func TestDrift(t *testing.T) {
	lab.Need(t, "nft", "ip", "sysctl", "socat", "nc")
	dir := t.TempDir()
	must(t, programs.Build(context.Background(), "..", dir))
	addrs := map[string]string{lab.Pod4: lab.Client4, lab.Pod6: lab.Client6}
	nets := map[string]*lab.Net{contract.ModeNAT: wired(t), contract.ModeTProxy: wired(t)}
	var running []client
	for mode, n := range nets {
		must(t, intercept.Apply(n.Pod.Path(), usual(t, contract.Mode(mode))))
		n.Pod.Start("socat", "TCP6-LISTEN:8080,fork,reuseaddr,ipv6only=0", "SYSTEM:echo $SOCAT_PEERADDR; exec cat").WaitListen(8080)
		user := lab.User{UID: contract.ProxyUID, NoNewPrivs: true}
		if mode == contract.ModeTProxy {
			user.Caps = []string{"net_raw"}
		}
		n.Pod.StartAs(user, filepath.Join(dir, "tproxy-proxy"), "--mode", mode).WaitListen(contract.ProxyPort)
		for ip, from := range addrs {
			running = append(running, dialEcho(t, n, from, ip))
		}
	}

	fake := &fakeRuntime{}
	fake.set(
		fakePod{name: "by-default", netns: nets[contract.ModeNAT].Pod.Path()},
		fakePod{name: "asks", netns: nets[contract.ModeTProxy].Pod.Path(), annotations: map[string]string{contract.AnnotationPrefix + "mode": contract.ModeTProxy}},
	)
	s := newTestNode(t, "10-flannel.conflist").start("install", "--preflight=false", "--packet-guard", string(lab.PacketGuard(t)),
		"--repair", "--repair-every", "1s", "--cri-socket", serveRuntime(t, fake))
	s.want("/metrics", 200, `tproxy_install_pods{mode="nat",state="intercepted"} 1`, `tproxy_install_pods{mode="tproxy",state="intercepted"} 1`)

	for i, d := range drifts {
		for _, n := range nets {
			n.Pod.Run(strings.Fields(d.change)...)
		}
		s.want("/metrics", 200, fmt.Sprintf(`tproxy_install_pods_repaired_total{kind="drifted",result="repaired"} %d`, 2*(i+1)))
		for mode, n := range nets {
			if err := intercept.Check(n.Pod.Path(), usual(t, contract.Mode(mode)), podAddresses); err != nil {
				t.Errorf("%s: %s: %v", d.change, mode, err)
			}
		}
		for _, c := range running {
			c.wantEcho(t, fmt.Sprint("after ", i))
		}
		for _, pod := range []string{"by-default", "asks"} {
			lab.Eventually(t, "a line about it", func() error {
				for line := range strings.Lines(s.log.String()) {
					if strings.Contains(line, "pod=test/"+pod+" ") && strings.Contains(line, d.names) {
						return nil
					}
				}
				return errors.New(s.log.String())
			})
		}
	}
	for _, n := range nets {
		// It may have seen the last drift, and refuses new clients until it looks again.
		lab.Eventually(t, "the sidecar is ready", func() error {
			status, text, err := n.Pod.Get(fmt.Sprintf("http://127.0.0.1:%d/readyz", contract.AdminPort))
			if err == nil && status != http.StatusOK {
				err = errors.New(text)
			}
			return err
		})
		for ip, from := range addrs {
			dialEcho(t, n, from, ip)
		}
	}
	s.stop()
}
