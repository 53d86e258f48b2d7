package main

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/lacks"
)

// TestGuardShown: on a kernel without the hook for the whole packet guard /readyz,
// status and explain name the guard in its place, and call it a fault only where the
// whole one is required.
func TestGuardShown(t *testing.T) {
	const annotation = contract.AnnotationPrefix + "packet-guard"
	required, bestEffort := string(contract.PacketGuardRequired), string(contract.PacketGuardBestEffort)
	for guard, features := range map[contract.Guard]string{contract.GuardTC: lacks.Egress, contract.GuardNone: lacks.Egress + "," + lacks.TC} {
		t.Run(string(guard), func(t *testing.T) {
			pod := wired(t).Pod
			n := newTestNode(t, "10-flannel.conflist")
			command := func(verb string, args ...string) *exec.Cmd {
				cmd := n.command(verb, args...)
				cmd.Env = append(cmd.Env, envLacks+"="+features)
				return cmd
			}
			lesser := "packet guard " + string(guard) + ", "
			if guard == contract.GuardTC {
				lesser += "a filter "
			}
			lesser += "in place of"

			for _, tc := range []struct {
				guard string
				ready int
				text  []string
			}{
				{bestEffort, 200, []string{"kernel: mode nat works", "kernel: mode nat: " + lesser}},
				{required, 503, []string{"the kernel lacks what the node's default mode nat needs", "pods start only with packet-guard best-effort", "kernel: mode nat: " + lesser}},
			} {
				s := n.serve(command("install", "--listen", "127.0.0.1:0", "--packet-guard", tc.guard))
				s.want("/readyz", tc.ready, tc.text...)
				s.want("/metrics", 200, `tproxy_install_packet_guard{guard="`+string(guard)+`",mode="nat"} 1`)
				s.stop()
			}

			// The node has no default now, and the pod asks for itself.
			n.Entry = []byte(`{"type":"tproxy-cni"}`)
			n.Installed()
			program := exec.Command(n.program(), "setup", "--mode", contract.ModeNAT, "--packet-guard", bestEffort)
			program.Env = command("status").Env
			if out, err := pod.TryCmd(program); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			fake := &fakeRuntime{}
			socket := serveRuntime(t, fake)
			for _, tc := range []struct {
				guard string
				exit  int
				lines []string
			}{
				{bestEffort, 0, []string{" ! kernel: " + lesser, " √ test/web  nat  intercepted", "0 faults"}},
				{required, 1, []string{" × kernel: the whole packet guard is required"}},
			} {
				fake.set(fakePod{name: "web", netns: pod.Path(), annotations: map[string]string{contract.AnnotationPrefix + "mode": contract.ModeNAT, annotation: tc.guard}})
				out, exit := output(command("status", "--cri-socket", socket))
				wantLines(t, out, tc.lines...)
				if exit != tc.exit {
					t.Errorf("status with packet-guard %s: exit status %d\n%s", tc.guard, exit, out)
				}
			}

			explain := command("explain", "--netns", pod.Path(), "--mode", contract.ModeNAT, "--packet-guard", bestEffort)
			out, _ := output(explain)
			wantLines(t, out, lesser)
		})
	}
}

// output runs a command and returns what it prints and its exit status, -1 if it did not
// run.
func output(cmd *exec.Cmd) (text string, exit int) {
	out, _ := cmd.CombinedOutput()
	return string(out), cmd.ProcessState.ExitCode()
}

// wantLines: the text has each of lines, however they are wrapped.
func wantLines(t *testing.T, text string, lines ...string) {
	t.Helper()
	joined := strings.Join(strings.Fields(text), " ")
	for _, l := range lines {
		if !strings.Contains(joined, strings.Join(strings.Fields(l), " ")) {
			t.Errorf("lacks %q:\n%s", l, text)
		}
	}
}
