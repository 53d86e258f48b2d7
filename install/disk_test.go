package main

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/internal/lab"
)

// TestEveryOperationFails: whichever operation the disk refuses, the error
// says so, no temporary file stays, the directory holds a valid configuration,
// and the next attempt succeeds.
func TestEveryOperationFails(t *testing.T) {
	for _, name := range []string{"10-flannel.conflist", "10-bridge.conf"} {
		for _, verb := range []string{"install", "uninstall"} {
			t.Run(name+" "+verb, func(t *testing.T) {
				ops := 0
				for at := 1; ; at++ {
					n := newTestNode(t, name)
					if verb == "uninstall" {
						_, err := n.node().install(context.Background())
						must(t, err)
					}
					count := 0
					node := n.node()
					node.disk.before = func(op, _ string) error {
						if count++; count == at && op != "chown" {
							return syscall.ENOSPC
						}
						return nil
					}
					act := func() (err error) {
						if verb == "install" {
							_, err = node.install(context.Background())
						} else {
							_, err = node.uninstall(context.Background(), false)
						}
						return err
					}
					err := act()
					if count < at {
						ops = at - 1
						must(t, err)
						break
					}
					if !errors.Is(err, syscall.ENOSPC) {
						t.Fatalf("operation %d: %v", at, err)
					}
					if _, err := load(n.confDir); err != nil {
						t.Fatalf("operation %d: %v", at, err)
					}
					for _, dir := range []string{n.confDir, n.binDir} {
						for file := range tree(t, dir) {
							if strings.HasSuffix(file, tempSuffix) {
								t.Errorf("operation %d leaves %s", at, file)
							}
						}
					}
					node.disk.before = nil
					must(t, act())
				}
				if ops < 4 {
					t.Errorf("only %d operations", ops)
				}
			})
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
