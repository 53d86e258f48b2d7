package integration

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/integration/results"
)

// injected runs our plugin alone under strace.
func (p *pod) injected(t *testing.T, verb string, expressions ...string) (out string, injected int, err error) {
	t.Helper()
	cmd := p.command(t, p.plugin, verb)
	args, count := lab.Injected(t, []string{cmd.Path}, expressions...)
	strace := exec.Command(args[0], args[1:]...)
	strace.Stdin, strace.Env = cmd.Stdin, cmd.Env
	out, err = p.Node.TryCmd(strace)
	return out, count(), err
}

// TestFaultNetlink: one netlink call of an ADD is interrupted or finds no room, the first,
// then the second and so on. ADD succeeds nevertheless, or fails with the code for "try
// again" and leaves the rules whole or absent; the next one succeeds.
func TestFaultNetlink(t *testing.T) {
	inModes(t, setup{bare: true}, func(t *testing.T, p *pod) {
		whole := rulesOf(p)
		p.ours(t, "DEL")
		before := p.snapshot(t)
		f := results.Fault{Name: "netlink of ADD: EINTR, ENOBUFS, ENOMEM", What: "ADDs, which can be tried again"}
		n := 0
		for _, call := range []string{"sendto", "sendmsg", "recvfrom", "recvmsg"} {
			for _, errno := range []string{"EINTR", "ENOBUFS", "ENOMEM"} {
				step := 1
				if lab.Faults(1) == 1 {
					step = 5
				}
				n++
				for at := 1 + n%step; ; at += step {
					out, injected, err := p.injected(t, "ADD", fmt.Sprintf("%s:error=%s:when=%d", call, errno, at))
					if injected == 0 { // ADD makes no such call, or none so late
						p.ours(t, "DEL")
						break
					}
					f.Injected, f.Of = f.Injected+injected, f.Of+1
					now := rulesOf(p)
					switch {
					case now != "" && now != whole, err == nil && now != whole:
						t.Errorf("%s of %s %d leaves\n%s", errno, call, at, now)
					case err != nil && !strings.Contains(strings.Join(strings.Fields(out), ""), `"code":11,`):
						t.Errorf("%s of %s %d: %v, want the code for try again:\n%s", errno, call, at, err, out)
					}
					if err != nil {
						f.Lost++
					}
					p.ours(t, "ADD")
					p.ours(t, "CHECK")
					p.ours(t, "DEL")
					if diff := cmp.Diff(before, p.snapshot(t)); diff != "" {
						t.Fatalf("%s of %s %d, after DEL (-before +after):\n%s", errno, call, at, diff)
					}
				}
			}
		}
		f.Report(t)
	})
}
