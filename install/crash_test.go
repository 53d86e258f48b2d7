package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestKilled runs the installer again and again, killed before its first file
// operation, its second and so on until it gets through, each time on a new
// node: several hundred deaths. Whatever is left is sound, and the next run
// makes it right.
func TestKilled(t *testing.T) {
	var deaths atomic.Int32
	t.Run("scenarios", func(t *testing.T) {
		for _, tc := range crashes {
			t.Run(tc.name, func(t *testing.T) {
				t.Parallel()
				fresh := func() *theNode {
					n := newTestNode(t, tc.file)
					n.pad = 160 << 10
					n.upgrade("v1")
					if tc.before != nil {
						tc.before(t, n)
					}
					return n
				}
				n := fresh()
				if out, err := n.command(tc.verb, "--once").CombinedOutput(); err != nil {
					t.Fatalf("undisturbed: %v\n%s", err, out)
				}
				want := n.files()
				for at := 1; ; at++ {
					n := fresh()
					killed := n.dies(tc.verb, at, tc.rival)
					if diff := cmp.Diff(want, n.files()); diff != "" {
						t.Fatalf("killed at operation %d, after the next run (-want +got):\n%s", at, diff)
					}
					must(t, os.RemoveAll(n.binDir)) // it is in memory
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
// run follow: after it or, as rival, while it still works. It tells whether the
// first came as far.
func (n *theNode) dies(verb string, at int, rival bool) (killed bool) {
	n.t.Helper()
	next := func() error {
		if verb == "install" {
			_, err := n.node().install(n.t.Context())
			return err
		}
		_, err := n.node().uninstall(n.t.Context(), false)
		return err
	}
	end := n.observe()
	defer end()
	cmd := n.command(verb, "--once")
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
	if err := n.sound(); err != nil {
		n.t.Fatalf("killed at operation %d: %v", at, err)
	}
	if !rival || killed {
		must(n.t, next())
	}
	return killed
}

// isLocked waits until an installer works on the node, and is false if that has
// ended before it was seen to.
func (n *theNode) isLocked(ended <-chan error) bool {
	n.t.Helper()
	dir, err := os.Open(n.confDir)
	must(n.t, err)
	defer dir.Close()
	look := time.NewTicker(time.Millisecond) // the kernel tells nobody of a lock
	defer look.Stop()
	for ; len(ended) == 0; <-look.C {
		if unix.Flock(int(dir.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil {
			return true
		}
		must(n.t, unix.Flock(int(dir.Fd()), unix.LOCK_UN))
	}
	return false
}

// files are both directories, and what is behind links in the first.
func (n *theNode) files() (dirs []map[string]string) {
	dirs = append(dirs, tree(n.t, n.confDir), tree(n.t, n.binDir))
	if data := filepath.Join(n.confDir, "..data"); isDir(data) {
		dirs = append(dirs, tree(n.t, data))
	}
	return dirs
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
