package integration

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/integration/results"
)

// TestFaultLink: the pod's interface goes down and comes up again, as does the node's end,
// and has its MTU changed. Running connections go on, new ones are served from the client's
// address. The kernel takes the IPv6 route for applications that are bound to a device off
// an interface that is down: CHECK names that, and a repair adds it.
func TestFaultLink(t *testing.T) {
	lab.Need(t, "curl", "nginx", "socat")
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		w := p.watch(t)
		p.Pod.StartAs(app, "socat", "TCP6-LISTEN:9000,ipv6only=0,fork,reuseaddr", "PIPE").WaitListen(9000)
		// The kernel takes IPv6 addresses off an interface that goes down, unless told.
		p.Pod.Sysctl("net.ipv6.conf.eth0.keep_addr_on_down", "1")
		node := p.nodeLink()
		routes := map[string]string{}
		for _, f := range p.fams() {
			version := map[string]string{"IPv4": "-4", "IPv6": "-6"}[f.name]
			routes[version] = p.Pod.Run("ip", version, "route", "show")
		}
		for _, fault := range []struct {
			name     string
			on, back func()
		}{
			{"eth0 down and up", func() { p.Pod.Run("ip", "link", "set", "eth0", "down") }, func() {
				p.Pod.Run("ip", "link", "set", "eth0", "up")
				for version, text := range routes { // whoever sets it down brings back the routes
					for line := range strings.Lines(text) {
						if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "fe80:") {
							args := append([]string{"ip", version, "route", "replace"}, strings.Fields(withoutState(line))...)
							p.Pod.Run(args...)
						}
					}
				}
			}},
			{"the node's end down and up", func() { p.Node.Run("ip", "link", "set", node, "down") }, func() {
				p.Node.Run("ip", "link", "set", node, "up")
				p.Node.Run("ip", "route", "replace", v4.pod, "dev", node)
				p.Node.Run("ip", "-6", "addr", "replace", v6.gateway+"/128", "dev", node)
				p.Node.Run("ip", "-6", "route", "replace", v6.pod, "dev", node)
			}},
			{"MTU 1280", func() { p.setMTU(node, 1280) }, func() {}},
			{"MTU 9000", func() { p.setMTU(node, 9000) }, func() { p.setMTU(node, 1500) }},
		} {
			f := results.Fault{Name: fault.name, What: "running connections"}
			for range lab.Faults(3) {
				var running []net.Conn
				for _, fam := range p.fams() {
					conn := p.dial(t, fam, 9000)
					if err := talks(conn); err != nil {
						t.Fatal(err)
					}
					running = append(running, conn)
				}
				fault.on()
				fault.back()
				f.Injected++
				for _, conn := range running {
					f.Of++
					if err := talks(conn); err != nil {
						f.Lost++
						t.Errorf("%s: a running connection: %v", fault.name, err)
					}
					conn.Close()
				}
				if lost, of := w.visit(t, 1, true); lost > 0 {
					t.Errorf("%s: %d of %d new connections are lost", fault.name, lost, of)
				}
				p.wantRepairable(t, "ipv6 route")
			}
			w.wantAsBefore(t)
			f.Report(t)
		}
	})
}

// wantRepairable: CHECK finds nothing, or nothing but what may be named, which an ADD mends
// as the installer's repair does.
func (p *pod) wantRepairable(t *testing.T, named string) {
	t.Helper()
	if out, err := p.try(t, p.plugin, "CHECK"); err != nil {
		if !strings.Contains(out, `"msg": "`+named) || strings.Contains(out, "; ") {
			t.Errorf("CHECK says %s", out)
		}
		p.ours(t, "ADD")
	}
	p.ours(t, "CHECK")
}

func (p *pod) setMTU(node string, mtu int) {
	p.Pod.Run("ip", "link", "set", "eth0", "mtu", fmt.Sprint(mtu))
	p.Node.Run("ip", "link", "set", node, "mtu", fmt.Sprint(mtu))
}

// withoutState takes out of a route what ip route shows and does not take.
func withoutState(route string) string {
	for _, word := range []string{" linkdown", " dead", " pref medium"} {
		route = strings.ReplaceAll(route, word, "")
	}
	return route
}

// TestFaultAddress: the pod gets another address and loses it again. Clients of it are
// served as themselves while it is there, and not after. In tproxy mode the rules have
// learned it: CHECK names that, and a repair takes it out. Then nobody sends from it.
func TestFaultAddress(t *testing.T) {
	lab.Need(t, "curl", "nginx")
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		w := p.watch(t)
		f := results.Fault{Name: "an address of the pod comes and goes", What: "new connections"}
		others := []string{"192.168.7.2", "fd00:7::2"}
		change := func(verb string, fam family, ip string) {
			bits := map[string]string{"IPv4": "/24", "IPv6": "/64"}[fam.name]
			if ip != fam.pod {
				bits = map[string]string{"IPv4": "/32", "IPv6": "/128"}[fam.name]
			}
			args := []string{"ip", "addr", verb, ip + bits, "dev", "eth0"}
			if fam == v6 && verb == "add" {
				args = append(args, "nodad")
			}
			p.Pod.Run(args...)
		}
		for i, fam := range p.fams() {
			p.Node.Run("ip", "route", "add", others[i], "via", fam.pod)
		}
		for range lab.Faults(3) {
			for i, fam := range p.fams() {
				change("add", fam, others[i])
				p.wantExactAt(t, fam.client, addr(others[i], webPort))
				f.Injected, f.Of = f.Injected+1, f.Of+2
				change("del", fam, others[i])
				if conn := p.knock(fam.client, addr(others[i], webPort)); conn != nil {
					conn.Close()
					t.Errorf("%s is served after it is gone", others[i])
				}
				p.wantExact(t, fam)
			}
		}
		w.wantAsBefore(t)
		p.wantRepairable(t, "set learned4")
		for i, fam := range p.fams() {
			before := p.counters(t)["guard_dropped"]
			conn, err := p.Pod.Dial("udp", others[i], addr(fam.client, webPort))
			if err != nil {
				t.Fatal(err)
			}
			_, err = conn.Write([]byte("x"))
			conn.Close()
			if p.counters(t)["guard_dropped"] == before {
				t.Errorf("after a repair a process sends from %s: %v", others[i], err)
			}
		}
		f.Report(t)
	})
}
