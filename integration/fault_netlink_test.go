package integration

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/integration/results"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestFaultADD: a system call of an ADD fails or ends it, the first of its kind, then the
// second and so on: netlink is interrupted or finds no room, there is no memory for the
// process itself, it is killed. ADD succeeds nevertheless, or fails and leaves the rules
// whole or absent. Where the kernel said that it lacks something, the error is the one for
// "try again". The runtime's DEL takes out all that there is, and the next ADD succeeds.
func TestFaultADD(t *testing.T) {
	// EINTR is of the calls that may wait; those of nftables' socket never do.
	calls := []struct {
		name        string
		expressions []string // %d is the number of the call
		every       int      // of so many calls one fails where time is short
		coded       bool
	}{
		{"netlink of ADD is interrupted (EINTR)", []string{"sendto:error=EINTR:when=%d", "recvfrom:error=EINTR:when=%d"}, 3, true},
		{"netlink of ADD finds no room (ENOBUFS, ENOMEM)", []string{"sendto:error=ENOBUFS:when=%d", "sendmsg:error=ENOMEM:when=%d", "recvfrom:error=ENOBUFS:when=%d", "recvmsg:error=ENOMEM:when=%d"}, 3, true},
		{"no descriptors for ADD (EMFILE, ENFILE)", []string{"socket:error=EMFILE:when=%d", "openat:error=ENFILE:when=%d"}, 3, false},
		{"no memory for ADD (mmap: ENOMEM)", []string{"mmap:error=ENOMEM:when=%d+"}, 4, false},
		{"SIGKILL at each step of ADD", []string{"sendto,sendmsg,write:signal=SIGKILL:when=%d"}, 1, false},
	}
	inModes(t, setup{bare: true}, func(t *testing.T, p *pod) {
		whole := rulesOf(p)
		p.ours(t, "DEL")
		for _, c := range calls {
			f := results.Fault{Name: c.name, What: "ADDs, which the runtime tries again"}
			every := c.every
			if lab.Faults(1) > 1 {
				every = 1
			}
			for _, expression := range c.expressions {
				for at := 1 + len(p.mode)%every; ; at += every { // others in each mode
					call := fmt.Sprintf(expression, at)
					out, hit, err := p.injected(t, "ADD", call)
					if !hit {
						p.ours(t, "DEL")
						break
					}
					f.Injected, f.Of = f.Injected+1, f.Of+1
					if now := rulesOf(p); now != whole && (now != "" || err == nil) {
						t.Errorf("%s leaves\n%s", call, now)
					}
					if err != nil {
						f.Lost++
					}
					if strings.Contains(out, "nil pointer") {
						t.Errorf("%s: %v\n%s", call, err, out)
					}
					if c.coded && err != nil && !strings.Contains(strings.Join(strings.Fields(out), ""), `"code":11,`) {
						t.Errorf("%s: %v, want the code for try again:\n%s", call, err, out)
					}
					if at/every%2 == 0 { // a runtime may try again without a DEL
						p.ours(t, "ADD")
						p.ours(t, "CHECK")
					}
					p.ours(t, "DEL")
					if left := p.leftovers(t); len(left) > 0 {
						t.Errorf("%s: DEL leaves %q", call, left)
						p.ours(t, "ADD")
						p.ours(t, "DEL")
					}
				}
			}
			if f.Injected > 0 {
				f.Report(t)
			}
		}
		p.ours(t, "ADD")
		p.ours(t, "CHECK")
	})
}

// TestFaultExplain: explain has no descriptor for one of its sockets, the first, the second
// and so on. It says so, or does without what it wanted to know; the pod is as before.
func TestFaultExplain(t *testing.T) {
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		whole := rulesOf(p)
		f := results.Fault{Name: "no descriptors for explain (EMFILE)", What: "reports, which a caller can ask for again"}
		command := append([]string{bin(t, "tproxy-install"), "explain", "--netns", p.Pod.Path()}, p.asked(t)...)
		for at := 1; ; at++ {
			args, count := lab.Injected(t, command, fmt.Sprintf("socket:error=EMFILE:when=%d", at))
			out, err := p.Node.Try(args...)
			if count() == 0 {
				break
			}
			f.Injected, f.Of = f.Injected+1, f.Of+1
			if !strings.Contains(out, "VERDICT") {
				f.Lost++
				if err == nil || !strings.Contains(out, unix.EMFILE.Error()) || strings.Contains(out, "goroutine ") {
					t.Errorf("socket %d: %v\n%s", at, err, out)
				}
			}
			if now := rulesOf(p); now != whole {
				t.Fatalf("socket %d leaves\n%s", at, now)
			}
		}
		f.Report(t)
	})
}

// injected runs our plugin alone under strace, and reports whether the call was hit.
func (p *pod) injected(t *testing.T, verb, expression string) (out string, hit bool, err error) {
	t.Helper()
	cmd := p.command(t, p.plugin, verb)
	args, count := lab.Injected(t, []string{cmd.Path}, expression)
	strace := exec.Command(args[0], args[1:]...)
	strace.Stdin, strace.Env = cmd.Stdin, cmd.Env
	out, err = p.Node.TryCmd(strace)
	return out, count() > 0 || err != nil && strings.Contains(err.Error(), unix.SIGKILL.String()), err
}

// leftovers is what of the plugin's is in the pod, without a program for each question.
func (p *pod) leftovers(t *testing.T) (all []string) {
	t.Helper()
	err := p.Pod.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err == nil && link.Attrs().Group != 0 {
			all = append(all, fmt.Sprint("group ", link.Attrs().Group))
		}
		for _, af := range []int{unix.AF_INET, unix.AF_INET6} {
			routes, rerr := netlink.RouteListFiltered(af, &netlink.Route{Table: contract.RouteTable}, netlink.RT_FILTER_TABLE)
			for _, r := range routes {
				all = append(all, "route "+r.String())
			}
			rules, lerr := netlink.RuleList(af)
			for _, r := range rules {
				if r.Priority == 0 && (r.Table == contract.RouteTable || r.Mark != 0 || r.UIDRange != nil || r.SuppressPrefixlen >= 0) {
					all = append(all, "rule "+r.String())
				}
			}
			for _, e := range []error{rerr, lerr} {
				if err == nil {
					err = e
				}
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if rules := rulesOf(p); rules != "" {
		all = append(all, rules)
	}
	return all
}

// TestFaultMemory: the sidecar's process gets no more memory than it has, and then needs
// some. It serves with what it has, or dies; and while it is dead clients are refused.
func TestFaultMemory(t *testing.T) {
	lab.Need(t, "strace", "curl", "nginx")
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		w := p.watch(t)
		f := results.Fault{Name: "no memory for the sidecar (mmap: ENOMEM)", What: "connections"}
		fault := p.Node.Inject(p.sidecar.Pid(), "mmap:error=ENOMEM", "madvise:error=ENOMEM")
		for range lab.Faults(1) {
			before, of := w.visit(t, 10, true)
			w.stall(t, func() bool { return fault.Count() > 0 }) // or this test shows nothing
			after, _ := w.visit(t, 10, true)
			f.Lost, f.Of = f.Lost+before+after, f.Of+2*of
		}
		f.Injected = fault.End()
		select {
		case <-p.sidecar.Done():
			for _, fam := range p.fams() {
				wantRefused(t, end{p.Client, fam.client}, addr(fam.pod, webPort))
			}
			p.start()
		default:
		}
		w.wantAsBefore(t)
		f.Report(t)
	})
}

// stall has clients fetch files without reading them, more than there are pipes and
// buffers, until the sidecar has needed memory for them.
func (w *watched) stall(t *testing.T, needed func() bool) {
	t.Helper()
	fams := w.fams()
	for i := range 200 {
		f := fams[i%len(fams)]
		conn, err := w.Client.Dial("tcp", f.client, addr(f.pod, webPort))
		if err != nil { // it is dead
			break
		}
		defer conn.Close()
		_ = conn.(*net.TCPConn).SetReadBuffer(4096)
		_, _ = conn.Write([]byte("GET /files/bulk HTTP/1.0\r\n\r\n"))
	}
	lab.Eventually(t, "the sidecar needs memory", func() error {
		if !needed() {
			return errors.New("it does not")
		}
		return nil
	})
}
