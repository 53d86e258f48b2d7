package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/lab"
	"github.com/tproxy-cni/tproxy-cni/plugin/settings"
)

// sound is what must hold on a node at every moment: a runtime finds a valid
// configuration, and the program of ours that it may name is there.
func (n *theNode) sound() error {
	for {
		list, err := load(n.confDir)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(list.Plugins, isOurs) {
			return nil
		}
		_, err = os.Stat(filepath.Join(n.binDir, contract.PluginType))
		if err == nil {
			return nil
		}
		// It may have gone after the entry had, between our two looks.
		again, lerr := load(n.confDir)
		if lerr != nil || slices.ContainsFunc(again.Plugins, isOurs) {
			return errors.Join(lerr, fmt.Errorf("%s names a program that is not there: %w", list.Name, err))
		}
	}
}

// observe checks soundness all the time until the returned function is called.
func (n *theNode) observe() (end func()) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if err := n.sound(); err != nil {
					n.t.Error("at some moment:", err)
					return
				}
				time.Sleep(200 * time.Microsecond) // leave the processor to the installer
			}
		}
	})
	return func() { close(stop); wg.Wait() }
}

// TestKilled runs the installer again and again, killed before its first file
// operation, its second and so on until it gets through, each time on a new
// node. Whatever is left is sound, and the next run makes it right.
func TestKilled(t *testing.T) {
	ctx := context.Background()
	installed := func(t *testing.T, n *theNode) {
		_, err := n.node().install(ctx)
		must(t, err)
	}
	for _, tc := range []struct {
		name, file, verb string
		prepare          func(*testing.T, *theNode)
		least            int // operations
	}{
		{"install", "10-calico.conflist", "install", nil, 40},
		{"convert", "10-bridge.conf", "install", nil, 40},
		{"upgrade", "10-flannel.conflist", "install", func(t *testing.T, n *theNode) {
			// Another program and other node defaults.
			was := n.entry
			var err error
			n.entry, err = settings.NewEntry(map[string]string{"mode": contract.ModeTProxy})
			must(t, err)
			installed(t, n)
			n.entry = was
			n.upgrade("v2")
		}, 40},
		{"owner rewrote", "10-bridge.conf", "install", func(t *testing.T, n *theNode) {
			installed(t, n)
			n.writeConf("10-bridge.conf", strings.Replace(n.configs["10-bridge.conf"], "10.", "11.", 1))
		}, 5},
		{"uninstall", "10-calico.conflist", "uninstall", installed, 8},
		{"restore", "10-bridge.conf", "uninstall", installed, 4},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var want [2]map[string]string // the two directories after an undisturbed run
			dirs := func(n *theNode) [2]map[string]string {
				return [2]map[string]string{tree(t, n.confDir), tree(t, n.binDir)}
			}
			at := 0
			for killed := true; killed; {
				n := newTestNode(t, tc.file)
				n.pad = 512 << 10
				n.upgrade("v1")
				if tc.prepare != nil {
					tc.prepare(t, n)
				}
				if at == 0 {
					must(t, n.command(tc.verb, "--once").Run())
					want = dirs(n)
					at = 1
					continue
				}
				end := n.observe()
				cmd := n.command(tc.verb, "--once")
				cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%d", envCrash, at))
				out, err := cmd.CombinedOutput()
				end()
				killed = err != nil
				if killed && cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
					t.Fatalf("operation %d: %v\n%s", at, err, out)
				}
				if err := n.sound(); err != nil {
					t.Fatalf("killed at operation %d: %v", at, err)
				}
				if tc.verb == "install" {
					_, err = n.node().install(ctx)
				} else {
					_, err = n.node().uninstall(ctx, false)
				}
				must(t, err)
				if diff := cmp.Diff(want, dirs(n)); diff != "" {
					t.Fatalf("killed at operation %d, after the next run (-want +got):\n%s", at, diff)
				}
				must(t, os.RemoveAll(n.binDir)) // it is in memory
				at++
			}
			if t.Logf("%d operations", at-2); at-2 < tc.least {
				t.Errorf("only %d operations", at-2)
			}
		})
	}
}

// TestManyInstallers: any number at once end in order, and at no moment is
// anything unsound.
func TestManyInstallers(t *testing.T) {
	for _, file := range []string{"10-flannel.conflist", "10-bridge.conf"} {
		n := newTestNode(t, file)
		end := n.observe()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				node := n.node()
				for range 5 {
					if _, err := node.install(context.Background()); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		for range 4 {
			wg.Go(func() {
				if _, err := n.node().uninstall(context.Background(), false); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		end()
		if diff := cmp.Diff(1, len(tree(t, n.confDir))); diff != "" {
			t.Errorf("files left: %v", tree(t, n.confDir))
		}
	}
}

// TestRealDisk: a file system that is full, and one that is read-only, in a
// mount namespace of its own.
func TestRealDisk(t *testing.T) {
	lab.Need(t)
	for _, tc := range []struct{ name, dir, options, want string }{
		{"full bin dir", "bin", "size=64k", "no space left on device"},
		{"full conf dir", "net.d", "size=4k", "no space left on device"},
		{"read-only bin dir", "bin", "ro", "read-only file system"},
		{"read-only conf dir", "net.d", "ro", "read-only file system"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := newTestNode(t, "10-flannel.conflist")
			dir := filepath.Join(filepath.Dir(n.binDir), tc.dir)
			install := n.command("install", "--once")
			// The directory's files are copied into the new file system,
			// before it becomes what it is to be.
			script := `set -e
cp -a "$1" "$1.old"
mount -t tmpfs none "$1"
cp -a "$1.old/." "$1"
mount -o "remount,$2" "$1"
shift 2
"$@" && exit 7
for f in "$CONF"/*.conflist; do cmp "$f" "$CONF0"; done
ls -A "$CONF" "$BIN" | grep '\.tmp$' && exit 9
ls -A "$CONF" "$BIN" | grep tproxy-cni && exit 8
exit 0`
			args := append([]string{"unshare", "--mount", "sh", "-c", script, "sh", dir, tc.options}, install.Args...)
			cmd := exec.Command(args[0], args[1:]...)
			cmd.Env = append(install.Env, "CONF="+n.confDir, "BIN="+n.binDir, "CONF0=testdata/10-flannel.conflist")
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			err := cmd.Run()
			if strings.HasSuffix(tc.name, "conf dir") {
				// The program is there already, by then; nothing names it.
				var exit *exec.ExitError
				if errors.As(err, &exit) && exit.ExitCode() == 8 {
					err = nil
				}
			}
			if err != nil || !strings.Contains(out.String(), tc.want) {
				t.Errorf("%v, want %q:\n%s", err, tc.want, out.String())
			}
		})
	}
}
