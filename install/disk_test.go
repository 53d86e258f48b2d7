package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

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
			dir := filepath.Join(filepath.Dir(n.BinDir), tc.dir)
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
			before := filepath.Join(n.Image, "before")
			must(t, os.WriteFile(before, []byte(n.Configs["10-flannel.conflist"]), 0o600))
			cmd.Env = append(install.Env, "CONF="+n.ConfDir, "BIN="+n.BinDir, "CONF0="+before)
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
