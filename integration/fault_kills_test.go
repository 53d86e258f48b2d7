package integration

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/integration/results"
)

// killing runs the plugin and kills it at a random moment of the time that it takes.
type killing struct {
	*pod
	random *rand.Rand
	whole  time.Duration // of a run that is left alone
	missed int           // runs that have ended before
}

func (p *pod) killing(t *testing.T) *killing {
	t.Helper()
	k := &killing{pod: p, random: lab.Random(t)}
	begin := time.Now()
	p.ours(t, "ADD")
	k.whole = time.Since(begin)
	return k
}

// run reports whether the plugin was killed before its end. A kill that comes too early or
// too late moves the time from which the next moment is taken.
func (k *killing) run(t *testing.T, verb string) bool {
	t.Helper()
	killed := k.Node.StartCmd(k.command(t, k.plugin, verb)).KillWithin(k.random, k.whole)
	if killed {
		k.whole = k.whole * 33 / 32
	} else if k.whole, k.missed = max(k.whole*7/8, time.Millisecond), k.missed+1; k.missed > 1000 {
		t.Fatal("the plugin ends before it can be killed")
	}
	return killed
}

// TestFaultKilledADD: the plugin is killed at random moments of an ADD. The rules are whole
// or absent then. The runtime's DEL leaves nothing of it, as does an ADD that comes first,
// and the last pod is served.
func TestFaultKilledADD(t *testing.T) {
	inModes(t, setup{bare: true}, func(t *testing.T, p *pod) {
		whole := rulesOf(p)
		k := p.killing(t)
		p.ours(t, "DEL")
		f := results.Fault{Name: "SIGKILL in ADD", What: "pods left half programmed"}
		for f.Injected < lab.Faults(12) {
			if !k.run(t, "ADD") {
				p.ours(t, "DEL")
				continue
			}
			f.Injected++
			wantWholeOrNone(t, p, whole, &f)
			if f.Injected%2 == 0 {
				p.ours(t, "ADD")
				p.ours(t, "CHECK")
			}
			p.ours(t, "DEL")
			if left := p.leftovers(t); len(left) > 0 {
				t.Fatalf("DEL leaves %q", left)
			}
		}
		p.ours(t, "ADD")
		p.start()
		p.nginx(t)
		p.inFamilies(t, p.wantExact)
		f.Of = f.Injected
		f.Report(t)
	})
}

// wantWholeOrNone: the rules are as an ADD makes them, or absent.
func wantWholeOrNone(t *testing.T, p *pod, whole string, f *results.Fault) {
	t.Helper()
	if now := rulesOf(p); now != "" && now != whole {
		f.Lost++
		t.Errorf("half of the rules are there:\n%s", now)
	}
}

// rulesOf is the pod's ruleset without what it has counted.
func rulesOf(p *pod) string {
	p.t.Helper()
	return p.Pod.Run("nft", "-s", "list", "ruleset")
}

// TestFaultKilledDEL: the plugin is killed at random moments of a DEL. While the rules are
// there they are whole, and the next DEL takes out what is left, or the next ADD completes
// it.
func TestFaultKilledDEL(t *testing.T) {
	inModes(t, setup{bare: true}, func(t *testing.T, p *pod) {
		whole := rulesOf(p)
		k := p.killing(t)
		f := results.Fault{Name: "SIGKILL in DEL", What: "pods left half programmed"}
		for f.Injected < lab.Faults(12) {
			p.ours(t, "ADD")
			if !k.run(t, "DEL") {
				continue
			}
			f.Injected++
			wantWholeOrNone(t, p, whole, &f)
			if f.Injected%2 == 0 {
				p.ours(t, "ADD")
				p.ours(t, "CHECK")
				continue
			}
			p.ours(t, "DEL")
			if left := p.leftovers(t); len(left) > 0 {
				t.Fatalf("the next DEL leaves %q", left)
			}
		}
		f.Of = f.Injected
		f.Report(t)
	})
}

// TestFaultKilledRepair: a pod that serves has lost part of what ADD made, and whoever
// repairs it, which is an ADD or what the installer does in the same way, is killed at
// random moments. A running connection goes on, no client reaches the application past the
// sidecar, and the next repair completes the work.
func TestFaultKilledRepair(t *testing.T) {
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		d, _ := p.nginx(t)
		p.Pod.StartAs(app, "socat", "TCP6-LISTEN:9000,ipv6only=0,fork,reuseaddr", "PIPE").WaitListen(9000)
		var running []net.Conn
		for _, f := range p.fams() {
			running = append(running, p.dial(t, f, 9000))
		}
		k := p.killing(t)
		drifts := []string{
			"nft flush chain inet tproxy_cni spoofed",
			"nft delete table netdev tproxy_cni",
			"ip -6 rule del pref 0 uidrange 7089-7089",
			"ip route del local default dev lo table local",
			"sysctl -qw net.ipv4.tcp_fwmark_accept=0",
		}
		f := results.Fault{Name: "SIGKILL in a repair", What: "running connections"}
		for f.Injected < lab.Faults(12) {
			p.Pod.Run(strings.Fields(drifts[f.Injected%len(drifts)])...)
			if !k.run(t, "ADD") {
				continue
			}
			f.Injected++
			for _, fam := range p.fams() {
				for range 2 {
					p.wantNobodyElse(t, fam)
				}
			}
			p.ours(t, "ADD")
			p.ours(t, "CHECK")
			for _, conn := range running {
				f.Of++
				if err := talks(conn); err != nil {
					f.Lost++
					t.Errorf("a running connection: %v", err)
				}
			}
		}
		p.waitReady()
		p.inFamilies(t, p.wantExact)
		for line := range strings.Lines(accessLog(t, d)) {
			if ip, _, _ := strings.Cut(line, " "); ip != v4.client && ip != v6.client {
				t.Errorf("nginx has seen %s", line)
			}
		}
		f.Report(t)
	})
}

// wantNobodyElse connects to nginx. The client is served as itself, or not at all: refused,
// reset, or without an answer.
func (p *pod) wantNobodyElse(t *testing.T, f family) {
	t.Helper()
	conn := p.knock(f.client, addr(f.pod, webPort))
	if conn == nil {
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(300 * time.Millisecond))
	if saw, err := ask(conn); err == nil {
		p.wantSeen(t, saw, conn.LocalAddr().String())
	}
}

// talks sends a text to an echo and waits for it.
func talks(conn net.Conn) error {
	const text = "are you there?"
	_ = conn.SetDeadline(time.Now().Add(lab.Patience))
	if _, err := conn.Write([]byte(text)); err != nil {
		return err
	}
	got := make([]byte, len(text))
	for n := 0; n < len(got); {
		m, err := conn.Read(got[n:])
		if err != nil {
			return err
		}
		n += m
	}
	if !bytes.Equal(got, []byte(text)) {
		return fmt.Errorf("echo of %q", got)
	}
	return nil
}

// TestFaultKilledSidecar: the sidecar is killed at random moments under traffic, and started
// again, as the kubelet does. A connection of that moment is lost. None is served past the
// sidecar, and after the start all are served.
func TestFaultKilledSidecar(t *testing.T) {
	lab.Need(t, "curl", "nginx")
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		w := p.watch(t)
		random := lab.Random(t)
		f := results.Fault{Name: "SIGKILL of the sidecar", What: "connections"}
		for range lab.Faults(6) {
			var clients []*lab.Proc
			for _, fam := range p.fams() {
				clients = append(clients, p.Client.Start(append(w.curl(fam, 20, false), "--rate", "20/s")...))
			}
			if !p.sidecar.KillWithin(random, 100*time.Millisecond) {
				t.Fatal("the sidecar has ended before")
			}
			f.Injected++
			for _, fam := range p.fams() {
				if conn, err := p.Client.Dial("tcp", fam.client, addr(fam.pod, webPort)); err == nil {
					if saw, err := ask(conn); err == nil {
						t.Errorf("without a sidecar nginx has seen %s", saw)
					}
					conn.Close()
				}
			}
			p.start()
			for _, c := range clients {
				_ = c.Wait()
				lost, of := w.judge(t, c.Output(), nil)
				f.Lost, f.Of = f.Lost+lost, f.Of+of
			}
			w.wantOnlyClients(t)
			if lost, of := w.visit(t, 2, false); lost > 0 {
				t.Errorf("after the start %d of %d connections are lost", lost, of)
			}
		}
		f.Report(t)
	})
}

// TestFaultAtOnce: a hundred pods are attached at once, on a node that has no time for any
// of them. All ADDs succeed, and leave the same as one alone.
func TestFaultAtOnce(t *testing.T) {
	inModes(t, setup{bare: true}, func(t *testing.T, p *pod) {
		// The link-local address is the interface's own.
		linkLocal := regexp.MustCompile(`,?\s*fe80::[0-9a-f:]+`)
		want := linkLocal.ReplaceAllString(rulesOf(p), "")
		pods := 50 // in each mode
		f := results.Fault{Name: "100 ADDs at once", Injected: pods, Of: pods, What: "ADDs"}
		all := make([]*pod, pods)
		for i := range all {
			other := *p
			n := *p.Net
			n.Pod = lab.New(t, "pod")
			n.Pod.Up().Run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "peer0")
			n.Pod.Run("ip", "link", "set", "eth0", "up")
			n.Pod.Addr("eth0", lab.Pod4+"/24", lab.Pod6+"/64")
			other.Net = &n
			all[i] = &other
		}
		running := make([]*lab.Proc, pods)
		for i, q := range all {
			running[i] = q.Node.StartCmd(q.command(t, q.plugin, "ADD"))
		}
		for i, r := range running {
			if err := r.Wait(); err != nil {
				f.Lost++
				t.Errorf("ADD %d: %v\n%s", i, err, r.Output())
			}
		}
		for i, q := range all {
			if now := linkLocal.ReplaceAllString(rulesOf(q), ""); now != want {
				t.Errorf("the rules of pod %d differ:\n%s", i, cmp.Diff(want, now))
			}
		}
		f.Report(t)
	})
}
