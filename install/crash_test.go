package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/install/disk"
	"github.com/tproxy-cni/tproxy-cni/install/node"
)

// TestKilled runs the installer again and again, killed before its first file
// operation, its second and so on until it gets through, each time on a new
// node: several hundred deaths. The invariants hold after each, and the next run
// completes the work.
func TestKilled(t *testing.T) {
	var deaths atomic.Int32
	t.Run("scenarios", func(t *testing.T) {
		for _, tc := range crashes {
			t.Run(tc.name, func(t *testing.T) {
				t.Parallel()
				fresh := func() *testNode {
					n := newTestNode(t, tc.file)
					n.Pad = 160 << 10
					n.Upgrade("v1")
					if tc.before != nil {
						tc.before(t, n)
					}
					return n
				}
				n := fresh()
				if out, err := n.command(tc.verb, once(tc.verb)...).CombinedOutput(); err != nil {
					t.Fatalf("undisturbed: %v\n%s", err, out)
				}
				want := n.Files()
				for at := 1; ; at++ {
					n := fresh()
					killed := n.dies(tc.verb, at, tc.rival)
					if diff := cmp.Diff(want, n.Files()); diff != "" {
						t.Fatalf("killed at operation %d, after the next run (-want +got):\n%s", at, diff)
					}
					must(t, os.RemoveAll(n.BinDir)) // it is in memory
					if !killed {
						t.Logf("killed before each of %d operations", at-1)
						break
					}
					deaths.Add(1)
				}
			})
		}
	})
	if t.Logf("%d deaths", deaths.Load()); !t.Failed() && deaths.Load() < 300 {
		t.Errorf("only %d deaths", deaths.Load())
	}
}

// dies runs the installer, kills it before its operation at, and lets another
// run follow: after it or, as rival, while it still works. It reports whether the
// first got that far.
func (n *testNode) dies(verb string, at int, rival bool) (killed bool) {
	n.t.Helper()
	next := func() error {
		if verb == "install" {
			_, err := n.Installer().Install(n.t.Context())
			return err
		}
		_, err := n.Installer().Uninstall(n.t.Context(), node.Remove)
		return err
	}
	end := n.Observe()
	defer end()
	cmd := n.command(verb, once(verb)...)
	cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%d", envCrash, at))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	must(n.t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if rival && n.isLocked(ended) {
		must(n.t, next())
	}
	err := <-ended
	if killed = err != nil; killed && cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		n.t.Fatalf("operation %d: %v\n%s", at, err, out.String())
	}
	if err := n.CheckInvariants(); err != nil {
		n.t.Fatalf("killed at operation %d: %v", at, err)
	}
	if !rival || killed {
		must(n.t, next())
	}
	return killed
}

// once are the flags of a single run that does all there is.
func once(verb string) []string {
	if verb == "uninstall" {
		return []string{"--once", "--remove-binary", "--force"}
	}
	return []string{"--once"}
}

// isLocked waits until an installer holds the node's lock, and returns false if
// the installer ended before that was observed.
func (n *testNode) isLocked(ended <-chan error) bool {
	n.t.Helper()
	look := time.NewTicker(time.Millisecond) // the kernel has no event for a lock
	defer look.Stop()
	for ; len(ended) == 0; <-look.C {
		f, err := os.Open(filepath.Join(n.ConfDir, disk.LockName))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		must(n.t, err)
		err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
		f.Close()
		if err != nil {
			return true
		}
	}
	return false
}
