package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestReadyCommand: what the kubelet gets of the startup probe, a line each time, while
// there is no sidecar, no interception, and both.
func TestReadyCommand(t *testing.T) {
	p := bare(t, contract.ModeNAT)
	want := func(ready bool, text string, args ...string) {
		t.Helper()
		lab.Eventually(t, text, func() error {
			out, err := p.command(append([]string{"ready"}, args...)...)
			if (err == nil) != ready || !strings.HasPrefix(out, text) || strings.Count(strings.TrimSpace(out), "\n") > 0 {
				return fmt.Errorf("%v: %q", err, out)
			}
			return nil
		})
	}
	want(false, "the sidecar does not answer on 127.0.0.1:5001: ", "--wait=0s")
	p.start()
	want(false, "not ready: IPv4", "--wait=0s")
	want(false, "not ready: IPv4")
	out, _ := p.command("ready", "--wait=0s")
	if !strings.Contains(out, "; what to do: ") {
		t.Errorf("no cure in %q", out)
	}
	p.apply(p.config())
	want(true, "ready: nat mode on ")
}

// TestFindSidecar: each command finds the sidecar that runs, whose arguments say where its
// admin port is, without being told.
func TestFindSidecar(t *testing.T) {
	p := prepared(t, contract.ModeNAT)
	exe, err := executable()
	own := filepath.Join(work, "alone") // sidecars of this name are this test's
	if err = errors.Join(err, os.Link(exe, own)); err != nil {
		t.Fatal(err)
	}
	as := func(args ...string) []string { return append([]string{"env", childEnv + "=1", own}, args...) }
	p.run(p.user(), as("--mode", p.mode, "--admin", ":5003"))
	p.sidecar.WaitListen(contract.ProxyPort, 5003)
	for _, command := range []string{"ready --wait=30s", "status", "log-level"} {
		if out, err := p.Pod.TryAs(p.user(), as(strings.Fields(command)...)...); err != nil {
			t.Errorf("%s: %v: %s", command, err, out)
		}
	}
}
