package main

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
	"github.com/tproxy-cni/tproxy-cni/proxy/accesslog"
	"github.com/tproxy-cni/tproxy-cni/proxy/sys"
)

func (p *pod) config() intercept.Config {
	c := intercept.Default(contract.Mode(p.mode))
	c.PacketGuard = lab.PacketGuard(p.t)
	return c
}

// faults are pods in which the plugin's rules are missing or broken, and the reason
// that the sidecar gives.
var faults = []struct {
	name   string
	spoil  func(p *pod)
	reason string
}{
	{"the plugin was not here", func(*pod) {}, "has not prepared this network namespace"},
	{"the plugin's work is gone", func(p *pod) {
		p.apply(p.config())
		if err := intercept.Remove(p.Pod.Path(), "eth0"); err != nil {
			p.t.Fatal(err)
		}
	}, "has not prepared this network namespace"},
	{"no table", func(p *pod) {
		p.apply(p.config())
		p.Pod.Run("nft", "delete table inet "+contract.Table)
	}, "nftables table"},
	{"no rules of routing", func(p *pod) {
		p.apply(p.config())
		for _, family := range []string{"-4", "-6"} {
			p.Pod.Run("sh", "-ec", withoutMarkedRules(family))
		}
	}, "routing rules are missing"},
	{"a sysctl", func(p *pod) {
		p.apply(p.config())
		p.Pod.Sysctl("net.ipv4.tcp_fwmark_accept", "0")
	}, "sysctl net.ipv4.tcp_fwmark_accept is 0, not 1"},
	{"IPv6 alone", func(p *pod) {
		p.apply(p.config())
		p.Pod.Sysctl("net.ipv6.fwmark_reflect", "0")
	}, "IPv6: sysctl net.ipv6.fwmark_reflect is 0, not 1"},
	{"another uid", func(p *pod) {
		c := p.config()
		c.ProxyUID = 4242
		p.apply(c)
	}, "proxy-uid is not this process's 7089"},
	{"another mode", func(p *pod) {
		c := p.config()
		c.Mode = map[string]contract.Mode{contract.ModeNAT: contract.ModeTProxy, contract.ModeTProxy: contract.ModeNAT}[p.mode]
		p.apply(c)
		// Another program's use of conntrack and NAT makes no mode of it.
		p.Pod.Run("nft", "table inet another { chain output { type nat hook output priority 0; ct state new accept; }; }")
	}, "for another mode"},
}

// TestNotReady: the sidecar in a pod that slipped past the plugin logs so once, with
// the cure, and is ready as soon as the pod is repaired.
func TestNotReady(t *testing.T) {
	for _, mode := range []string{contract.ModeNAT, contract.ModeTProxy} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			p := bare(t, mode)
			for _, fault := range faults {
				t.Run(fault.name, func(t *testing.T) {
					if err := intercept.Remove(p.Pod.Path(), p.config().Interface); err != nil {
						t.Fatal(err)
					}
					fault.spoil(p)
					p.start()
					defer p.sidecar.Kill()
					p.wantNotReady(t, fault.reason)
					p.apply(p.config())
					p.waitReady()
					p.wantReason(t, fault.reason)
					inFamilies(t, func(t *testing.T, f ipFamily) {
						client, application := p.pair(t, f)
						say(t, client, application, "hello")
						p.wantSource(t, client, application)
					})
				})
			}
		})
	}
}

// TestAnotherUID: if the rules allow another uid than the sidecar's, clients are refused
// and do not hang, and the sidecar logs why.
func TestAnotherUID(t *testing.T) {
	for _, mode := range []string{contract.ModeNAT, contract.ModeTProxy} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			p := bare(t, mode)
			c := p.config()
			c.ProxyUID = 4242
			p.apply(c)
			p.start()
			p.wantNotReady(t, "the plugin's proxy-uid")
			a := p.listen(t, 0)
			inFamilies(t, func(t *testing.T, f ipFamily) { p.wantRefused(t, f, a.port) })
		})
	}
}

// wantNotReady asks as the kubelet does.
func (p *pod) wantNotReady(t *testing.T, reason string) {
	t.Helper()
	lab.Eventually(t, "the reason", func() error {
		if status, body := p.admin("/readyz"); status != "503" || !strings.Contains(body, reason) {
			return fmt.Errorf("%s %s", status, body)
		}
		return nil
	})
	if status, body := p.admin("/healthz"); status != "200" {
		t.Errorf("/healthz: %s %s", status, body)
	}
	p.sidecar.WaitLog("level=WARN")
}

// wantReason looks for the reason and the cure in the log, each reason once.
func (p *pod) wantReason(t *testing.T, reason string) {
	t.Helper()
	lines := p.lines("not ready: connections to this pod are not intercepted")
	if len(lines) == 0 || !strings.Contains(lines[0]["err"], reason) || !strings.Contains(lines[0]["cure"], "annotation") && !strings.Contains(lines[0]["cure"], "delete the pod") {
		t.Errorf("the log does not say why:\n%s", p.sidecar.Output())
	}
	seen := map[string]bool{}
	for _, l := range lines {
		if seen[l["err"]] {
			t.Errorf("logged twice: %s", l["err"])
		}
		seen[l["err"]] = true
	}
}

// TestUnprepared: a connection that is sent to the sidecar although a spoofed
// one is impossible is reset, and the log says what is missing.
func TestUnprepared(t *testing.T) {
	inModes(t, func(t *testing.T, p *pod) {
		a := p.listen(t, 0)
		for _, family := range []string{"-4", "-6"} {
			table := "local"
			if family == "-6" {
				table = fmt.Sprint(contract.RouteTable)
			}
			p.Pod.Run("ip", family, "route", "del", "local", "default", "dev", "lo", "table", table)
		}
		client := p.wantRefused(t, ip4, a.port)
		line := p.wantEnd(t, client, accesslog.Unprepared)
		if !strings.Contains(line["err"], "has not prepared this network namespace") || line["level"] != "WARN" {
			t.Errorf("the log says %v", line)
		}
	})
}

// TestRestart: killed and started again, the sidecar serves at once; in between
// clients are refused, not let through.
func TestRestart(t *testing.T) {
	inModes(t, func(t *testing.T, p *pod) {
		a := p.listen(t, 0).echo()
		for range 3 {
			exchange(t, p.dial(t, ip4, a.port), "hello")
			p.sidecar.Kill()
			inFamilies(t, func(t *testing.T, f ipFamily) { p.wantRefused(t, f, a.port) })
			p.start()
			inFamilies(t, func(t *testing.T, f ipFamily) { exchange(t, p.dial(t, f, a.port), "again") })
			p.waitReady()
		}
	})
}

// TestNoCapability: tproxy mode without NET_RAW says which capability it lacks
// and what to do.
func TestNoCapability(t *testing.T) {
	p := prepared(t, contract.ModeTProxy)
	p.startAs(lab.User{UID: contract.ProxyUID, NoNewPrivs: true})
	if err := p.sidecar.Wait(); err == nil || err.Error() != "exit status 1" {
		t.Errorf("ended with %v, want status 1", err)
	}
	for _, want := range []string{"IP_TRANSPARENT", "capability NET_RAW", "without a `capabilities` section", "--mode nat"} {
		if !strings.Contains(p.sidecar.Output(), want) {
			t.Errorf("no %q in the log:\n%s", want, p.sidecar.Output())
		}
	}
}

// TestPortTaken: a program of another user has the port. The sidecar ends, and says
// whose it is and what can be done.
func TestPortTaken(t *testing.T) {
	lab.Need(t, "nc")
	for port, annotation := range map[int]string{contract.ProxyPort: "proxy-port", contract.AdminPort: "admin-port"} {
		p := prepared(t, contract.ModeNAT)
		p.Pod.StartAs(lab.User{UID: 1000}, "nc", "-lk", "0.0.0.0", fmt.Sprint(port)).WaitListen(port)
		p.startAs(p.user())
		if err := p.sidecar.Wait(); err == nil || err.Error() != "exit status 1" {
			t.Errorf("ended with %v, want status 1", err)
		}
		for _, want := range []string{fmt.Sprintf(":%d: bind: address already in use: uid 1000 of this pod listens on it", port), annotation} {
			if !strings.Contains(p.sidecar.Output(), want) {
				t.Errorf("no %q in the log:\n%s", want, p.sidecar.Output())
			}
		}
	}
}

// TestPortBound: another program has bound the port and does not listen, which the
// kernel does not show.
func TestPortBound(t *testing.T) {
	p := prepared(t, contract.ModeNAT)
	var fd int
	err := p.Pod.Do(func() (err error) {
		if fd, err = sys.Socket(true); err == nil {
			err = sys.Bind(fd, netip.AddrPortFrom(netip.IPv6Unspecified(), contract.AdminPort))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close(fd)
	p.startAs(p.user())
	if err := p.sidecar.Wait(); err == nil || err.Error() != "exit status 1" {
		t.Errorf("ended with %v, want status 1", err)
	}
	if !strings.Contains(p.sidecar.Output(), "something in this pod has bound it without listening") {
		t.Errorf("the log says\n%s", p.sidecar.Output())
	}
}

// TestOtherInterceptor: the sidecar warns of istio's or linkerd's proxy beside it, and
// serves nevertheless: their rules may leave inbound connections alone. The same port
// under another user is an application's.
func TestOtherInterceptor(t *testing.T) {
	lab.Need(t, "nc")
	p := prepared(t, contract.ModeNAT)
	for port, uid := range map[int]int{15006: 1337, 4143: 1000} {
		p.Pod.StartAs(lab.User{UID: uid}, "nc", "-lk", "0.0.0.0", fmt.Sprint(port)).WaitListen(port)
	}
	p.start()
	p.waitReady()
	p.sidecar.WaitLog("another interceptor is in this pod")
	if log := p.sidecar.Output(); !strings.Contains(log, "uid 1337 of this pod listens on port 15006, as istio's proxy does") || strings.Contains(log, "4143") {
		t.Errorf("the log says\n%s", log)
	}
	client, application := p.pair(t, ip4)
	say(t, client, application, "hello")
}
