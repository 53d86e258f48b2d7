package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// explained is the part of explain's JSON that the tests look at.
type explained struct {
	Verdict struct{ Code, State, Text string }
	Next    struct{ Text, Command string }
	Story   *struct {
		Client, Server, Seen, Outcome string
		Synthetic                     bool
	}
	Checks    []struct{ Name, State, Text string }
	Listeners []struct {
		Address, Role, Process string
		UID                    uint32
		PID                    int
	}
}

// explain runs the command on the node and returns its report, whose state must be
// that of the exit status.
func (p *pod) explain(t *testing.T, args ...string) explained {
	t.Helper()
	return p.explainAs(t, append(append([]string{"--netns", p.Pod.Path()}, p.asked(t)...), args...)...)
}

// asked is what the pod asks for, as flags.
func (p *pod) asked(t *testing.T) []string {
	t.Helper()
	asked := []string{"--mode", p.mode}
	if !lab.Has(t, lab.EgressHook) {
		asked = append(asked, "--packet-guard", string(contract.PacketGuardBestEffort))
	}
	return asked
}

// explainAs is explain for a pod that the arguments name.
func (p *pod) explainAs(t *testing.T, args ...string) (r explained) {
	t.Helper()
	out, err := p.Node.Try(append([]string{bin(t, "tproxy-install"), "explain", "--json"}, args...)...)
	status := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		status = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	if want, ok := map[string]int{"fine": 0, "fault": 1, "unknown": 3}[r.Verdict.State]; !ok || want != status {
		t.Errorf("exit status %d for state %q", status, r.Verdict.State)
	}
	if r.Next.Text == "" || strings.Contains(r.Next.Text+r.Next.Command, "\n") {
		t.Errorf("not one next step: %+v", r.Next)
	}
	return r
}

// wantVerdict runs explain and requires a verdict.
func (p *pod) wantVerdict(t *testing.T, code string, args ...string) explained {
	t.Helper()
	r := p.explain(t, args...)
	if r.Verdict.Code != code {
		t.Errorf("verdict %s, want %s: %s\nnext: %+v\nchecks: %+v\nstory: %+v", r.Verdict.Code, code, r.Verdict.Text, r.Next, r.Checks, r.Story)
	}
	return r
}

// follow does what the report's next step says, as root on the node.
func (p *pod) follow(t *testing.T, r explained) *lab.Proc {
	t.Helper()
	cmd := exec.CommandContext(context.Background(), "sh", "-c", r.Next.Command)
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(bin(t, "tproxy-install"))+":/usr/sbin:/sbin:"+os.Getenv("PATH"))
	return p.Node.StartCmd(cmd)
}

// TestExplain breaks a pod in one way after the other: each time the verdict is right,
// and the next steps, taken literally, mend it.
func TestExplain(t *testing.T) {
	inModes(t, setup{bare: true}, func(t *testing.T, p *pod) {
		p.Pod.Sysctl("net.core.somaxconn", "4") // short queues
		p.start()
		serve := func() *lab.Proc {
			return p.Pod.StartAs(app, "socat", "TCP6-LISTEN:8080,ipv6only=0,fork,reuseaddr", "EXEC:cat").WaitListen(8080)
		}
		server := serve()
		p.inFamilies(t, func(t *testing.T, f family) {
			r := p.wantVerdict(t, "healthy", "--client", f.gateway)
			if r.Story == nil || !r.Story.Synthetic || !strings.Contains(r.Story.Client, f.gateway) || !p.same(r.Story.Seen, r.Story.Client) {
				t.Errorf("story %+v", r.Story)
			}
		})
		for _, c := range []struct {
			name, code, text string
			args             []string
			spoil            func(*testing.T)
		}{
			{"a rule is gone", "drifted", "chain spoofed", nil, func(*testing.T) { p.Pod.Run("nft", "flush chain inet tproxy_cni spoofed") }},
			{"a routing rule is gone", "drifted", "", nil, func(*testing.T) { p.Pod.Run("ip", "rule", "del", "priority", "0", "lookup", "29808") }},
			{"a sysctl is off", "drifted", "fwmark_reflect", nil, func(*testing.T) { p.Pod.Sysctl("net.ipv4.fwmark_reflect", "0") }},
			{"no table", "not_programmed", "directly", nil, func(*testing.T) { p.Pod.Run("nft", "flush ruleset") }},
			{"an excluded port", "exempt_port", "port 8080 is excluded", []string{"--exclude-inbound-ports", "8080"}, func(*testing.T) {
				p.Pod.Run(append([]string{bin(t, "tproxy-install"), "setup", "--exclude-inbound-ports", "8080"}, p.asked(t)...)...)
			}},
			{"an iptables redirect comes first", "other_interceptor", "port 8080 becomes 15006", nil, func(*testing.T) {
				p.Pod.Run("nft", "add table ip nat; add chain ip nat PREROUTING { type nat hook prerouting priority -101; }; "+
					"add rule ip nat PREROUTING udp dport 53 accept; add rule ip nat PREROUTING ip protocol tcp redirect to :15006")
			}},
			{"a firewall drops", "firewall", "drops", nil, func(*testing.T) {
				p.Pod.Run("nft", `add table inet fw; add chain inet fw in { type filter hook prerouting priority -200; }; add rule inet fw in iifname "eth0" tcp dport 8080 drop`)
			}},
			{"the application is stopped and its queue full", "application_full", "queue on port 8080 is full", nil, func(t *testing.T) {
				server.Halt()
				p.fill(t, 8080, 4)
			}},
			{"the sidecar is stopped and its queue full", "sidecar_full", "its queue is full", nil, func(t *testing.T) {
				p.sidecar.Halt()
				p.fill(t, contract.ProxyPort, 4)
			}},
			{"the sidecar is down", "no_sidecar", "clients are refused", nil, func(*testing.T) { p.sidecar.Kill() }},
			{"another user has the sidecar's port", "wrong_uid", "uid 1000 (nc) listens on the sidecar's port", nil, func(t *testing.T) {
				for _, l := range p.explain(t).Listeners {
					if l.Role == "sidecar" {
						_ = syscall.Kill(l.PID, syscall.SIGKILL)
					}
				}
				lab.Eventually(t, "the impostor", func() error {
					if listens, err := p.Pod.Listening(contract.ProxyPort); listens || err != nil {
						return fmt.Errorf("the sidecar listens: %w", err)
					}
					return nil
				})
				p.Pod.StartAs(app, "nc", "-lkp", fmt.Sprint(contract.ProxyPort)).WaitListen(contract.ProxyPort)
			}},
		} {
			t.Run(c.name, func(t *testing.T) {
				c.spoil(t)
				r := p.wantVerdict(t, c.code, c.args...)
				if !strings.Contains(r.Verdict.Text, c.text) {
					t.Errorf("text: %s", r.Verdict.Text)
				}
				p.mend(t, r)
			})
		}
		t.Run("the application is dead", func(t *testing.T) {
			server.Kill()
			p.wantVerdict(t, "no_listener", "--port", "8080")
			serve() // the step: let the application listen
			p.wantVerdict(t, "healthy", "--port", "8080")
		})
	})
}

// mend follows the next steps, of which one can lead to another, until the pod is
// healthy.
func (p *pod) mend(t *testing.T, r explained) {
	t.Helper()
	done := ""
	lab.Eventually(t, "healthy again", func() error {
		if r.Next.Command != "" && r.Next.Command != done {
			step := p.follow(t, r)
			if strings.Contains(r.Next.Command, "tproxy-install setup") { // else a program that stays
				if err := step.Wait(); err != nil {
					return fmt.Errorf("%s: %w", r.Next.Command, err)
				}
			}
			done = r.Next.Command
		}
		if r = p.explain(t); r.Verdict.Code != "healthy" {
			return fmt.Errorf("%+v after %s", r.Verdict, done)
		}
		return nil
	})
}

// fill connects until the listener's queue is full: one more than its limit.
func (p *pod) fill(t *testing.T, port, limit int) {
	t.Helper()
	for range limit + 2 {
		p.Pod.Start("nc", "127.0.0.1", fmt.Sprint(port))
	}
	lab.Eventually(t, "a full queue", func() error {
		all, err := p.Pod.Sockets()
		for _, s := range all {
			if s.LocalPort == port && s.RecvQueue > limit && s.RemotePort == 0 {
				return nil
			}
		}
		return fmt.Errorf("not full (%w)", err)
	})
}

// TestExplainLeavesNothing: while connections are followed the pod passes CHECK and its
// traffic goes on; afterwards the ruleset is what it was, also where the command was
// killed.
func TestExplainLeavesNothing(t *testing.T) {
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		p.Pod.StartAs(app, "socat", "TCP6-LISTEN:8080,ipv6only=0,fork,reuseaddr", "EXEC:cat").WaitListen(8080)
		counts := regexp.MustCompile(`packets \d+ bytes \d+`)
		ruleset := func() string { return counts.ReplaceAllString(p.Pod.Run("nft", "list", "ruleset"), "") }
		before := ruleset()
		for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL} {
			if sig == syscall.SIGKILL && !lab.Has(t, lab.TableOwner) {
				t.Run("killed", func(t *testing.T) { lab.NeedKernel(t, lab.TableOwner) })
				continue
			}
			watch := p.Node.Start(append([]string{bin(t, "tproxy-install"), "explain", "--netns", p.Pod.Path(), "--watch"}, p.asked(t)...)...)
			lab.Eventually(t, "its table", func() error {
				// A client who opens thousands of connections is followed in samples.
				const mark = "limit rate 20/second burst 20 packets meta nftrace set 1"
				if now := ruleset(); !strings.Contains(now, "tproxy_trace_") || strings.Count(now, mark) != strings.Count(now, "nftrace") {
					return errors.New(now)
				}
				return nil
			})
			p.mustCNI("check")
			p.Pod.Run(append([]string{bin(t, "tproxy-install"), "setup"}, p.asked(t)...)...) // all rules are new, under other names of the kernel
			p.inFamilies(t, func(t *testing.T, f family) {
				// Where the sidecar does not get the processor for as long as explain follows a
				// handshake, the story ends before it dials. Then another connection has one.
				conn := p.dial(t, f, 8080)
				lab.Eventually(t, "a story to its end", func() error {
					client, port, _ := net.SplitHostPort(conn.LocalAddr().String())
					if p.mode == contract.ModeTProxy {
						port = "" // another
					}
					_, story, told := strings.Cut(watch.Output(), "story     "+conn.LocalAddr().String())
					switch {
					case strings.Contains(story, "the application sees "+net.JoinHostPort(client, port)):
						return nil
					case told:
						conn = p.dial(t, f, 8080)
					}
					return errors.New(watch.Output())
				})
				if n := strings.Count(watch.Output(), "spoofed: lets uid 7089 open the spoofed leg"); n == 0 {
					t.Errorf("rules without their words:\n%s", watch.Output())
				}
			})
			watch.Signal(sig)
			lab.Eventually(t, "the ruleset of before", func() error {
				if now := ruleset(); now != before {
					return errors.New(now)
				}
				return nil
			})
		}
		p.mustCNI("check")
	})
}
