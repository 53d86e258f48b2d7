package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/install/disk"
	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestErrorIsSeen: an error of the disk is reported, tried again with pauses, and
// gone when its cause is.
func TestErrorIsSeen(t *testing.T) {
	n := newTestNode(t, "10-flannel.conflist")
	must(t, os.Mkdir(filepath.Join(n.BinDir, contract.PluginType), 0o755))
	s := n.start("install", "--preflight=false")
	s.want("/readyz", 503, "is a directory: remove it")
	s.want("/metrics", 200, `tproxy_install_error{reason="binary"} 1`)
	if n := strings.Count(s.log.String(), "not ready"); n != 1 {
		t.Errorf("said %d times", n)
	}
	must(t, os.Remove(filepath.Join(n.BinDir, contract.PluginType)))
	s.want("/readyz", 200)
}

// TestStuck: a lock that is never released is reported.
func TestStuck(t *testing.T) {
	t.Parallel()
	n := newTestNode(t, "10-flannel.conflist")
	unlock, err := disk.Lock(t.Context(), n.ConfDir)
	must(t, err)
	s := n.start("install", "--preflight=false")
	s.want("/readyz", 503, "another installer works on "+n.ConfDir)
	unlock()
	s.want("/readyz", 200)
}

// TestPortTaken: an installer whose port is taken by another process works on the
// node anyway.
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
	n.WriteConf("10-a.conflist", `{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"ptp"}]}`)
	n.wantPlugins("ptp", contract.PluginType)
}

// TestEndInTheMiddle: SIGTERM while the plugin is tried, before anything is in
// place. Nothing is left behind, and --once ends with an error.
func TestEndInTheMiddle(t *testing.T) {
	for _, args := range [][]string{{"--preflight=false", "--listen", "127.0.0.1:0"}, {"--once"}} {
		n := newTestNode(t, "10-flannel.conflist")
		before := n.Files()
		started := filepath.Join(n.Image, "started")
		must(t, os.WriteFile(filepath.Join(n.Image, contract.PluginType), []byte("#!/bin/sh\n: > "+started+"\nexec sleep 1000\n"), 0o755))
		cmd := n.command("install", args...)
		var out bytes.Buffer
		cmd.Stderr = &out
		must(t, cmd.Start())
		lab.Eventually(t, "the program runs", func() error { _, err := os.Stat(started); return err })
		must(t, cmd.Process.Signal(syscall.SIGTERM))
		if err := cmd.Wait(); (err != nil) != (args[0] == "--once") {
			t.Errorf("%q: ended with %v\n%s", args, err, out.String())
		}
		if diff := cmp.Diff(before, n.Files()); diff != "" {
			t.Errorf("%q: changed:\n%s", args, diff)
		}
	}
}

// TestOneTaskDies: an installer whose listener can never be bound also stops its
// other tasks, logs the reason and exits with status 1.
func TestOneTaskDies(t *testing.T) {
	for _, verb := range []string{"install", "uninstall"} {
		n := newTestNode(t, "10-flannel.conflist")
		ctx, cancel := context.WithTimeout(t.Context(), lab.Patience)
		defer cancel()
		c := n.command(verb, "--listen", "[ff02::1]:17089") // a multicast address
		cmd := exec.CommandContext(ctx, c.Path, c.Args[1:]...)
		cmd.Env = c.Env
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 {
			t.Errorf("%s: ended with %v", verb, err)
		}
		if want := "level=ERROR msg=" + verb + ` err="health and metrics: listen tcp [ff02::1]:17089: bind: invalid argument"`; !strings.Contains(string(out), want) {
			t.Errorf("%s: no %s in the log:\n%s", verb, want, out)
		}
	}
}

// TestSupervise: the first error ends all tasks, and is returned.
func TestSupervise(t *testing.T) {
	died := errors.New("died")
	var ended atomic.Int32
	lives := func(ctx context.Context) error {
		<-ctx.Done()
		ended.Add(1)
		return nil
	}
	ctx, cancel := context.WithTimeout(t.Context(), lab.Patience)
	defer cancel()
	err := supervise(ctx, lives, func(context.Context) error { return nil }, func(context.Context) error { return died }, lives)
	if !errors.Is(err, died) || ended.Load() != 2 || ctx.Err() != nil {
		t.Errorf("error is %v, %d tasks ended, %v", err, ended.Load(), ctx.Err())
	}
}
