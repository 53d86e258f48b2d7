package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/lab"
)

// TestErrorIsSeen: a fault of the disk is told, tried again without haste, and
// over when it is gone.
func TestErrorIsSeen(t *testing.T) {
	n := newTestNode(t, "10-flannel.conflist")
	must(t, os.Mkdir(filepath.Join(n.binDir, contract.PluginType), 0o755))
	s := n.start("install", "--preflight=false")
	s.want("/readyz", 503, "is a directory: remove it")
	s.want("/metrics", 200, `tproxy_install_error{reason="binary"} 1`)
	if n := strings.Count(s.log.String(), "not ready"); n != 1 {
		t.Errorf("said %d times", n)
	}
	must(t, os.Remove(filepath.Join(n.binDir, contract.PluginType)))
	s.want("/readyz", 200)
}

// TestStuck: whoever holds the lock for good is seen, and so is an attempt that
// does not end.
func TestStuck(t *testing.T) {
	t.Parallel()
	n := newTestNode(t, "10-flannel.conflist")
	unlock, err := lock(t.Context(), n.confDir)
	must(t, err)
	s := n.start("install", "--preflight=false")
	s.want("/readyz", 503, "another installer works on "+n.confDir)
	unlock()
	s.want("/readyz", 200)

	st := newStatus(contract.ModeNone)
	st.set(outcome{}, "in place", nil)
	if _, err := st.readiness(); err != nil {
		t.Error(err)
	}
	st.last = st.last.Add(-4 * recheck)
	if _, err := st.readiness(); err == nil || !strings.Contains(err.Error(), "no attempt has ended for 40s") {
		t.Errorf("error is %v", err)
	}
}

// TestPortTaken: an installer whose port another holds works on the node.
func TestPortTaken(t *testing.T) {
	n := newTestNode(t)
	first := n.start("install", "--preflight=false")
	cmd := n.command("install", "--preflight=false", "--listen", strings.TrimPrefix(first.url, "http://"))
	log := &lab.Output{}
	cmd.Stderr = log
	must(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	lab.Eventually(t, "an error that names the port", func() error {
		if !strings.Contains(log.String(), "address already in use") {
			return errors.New(log.String())
		}
		return nil
	})
	first.stop()
	n.writeConf("10-a.conflist", `{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"ptp"}]}`)
	n.wantPlugins("ptp", contract.PluginType)
}

// TestEndInTheMiddle: SIGTERM while the program is being tried, before anything
// is in its place. Nothing stays behind, and a single attempt says that it
// failed.
func TestEndInTheMiddle(t *testing.T) {
	for _, args := range [][]string{{"--preflight=false", "--listen", "127.0.0.1:0"}, {"--once"}} {
		n := newTestNode(t, "10-flannel.conflist")
		before := n.files()
		started := filepath.Join(n.image, "started")
		must(t, os.WriteFile(filepath.Join(n.image, contract.PluginType), []byte("#!/bin/sh\n: > "+started+"\nexec sleep 1000\n"), 0o755))
		cmd := n.command("install", args...)
		var out bytes.Buffer
		cmd.Stderr = &out
		must(t, cmd.Start())
		lab.Eventually(t, "the program runs", func() error { _, err := os.Stat(started); return err })
		must(t, cmd.Process.Signal(syscall.SIGTERM))
		if err := cmd.Wait(); (err != nil) != (args[0] == "--once") {
			t.Errorf("%q: ended with %v\n%s", args, err, out.String())
		}
		if diff := cmp.Diff(before, n.files()); diff != "" {
			t.Errorf("%q: changed:\n%s", args, diff)
		}
	}
}
