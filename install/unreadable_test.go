package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/install/node/nodetest"
	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// TestUnreadable: a configuration that the installer may not read is reported,
// because it may be the first for the runtime.
func TestUnreadable(t *testing.T) {
	lab.Need(t, "setpriv")
	n := newTestNode(t)
	n.WriteConf("10-a.conflist", nodetest.ValidList)
	must(t, os.WriteFile(filepath.Join(n.ConfDir, "05-root.conflist"), []byte(nodetest.ValidList), 0o600))
	for _, dir := range []string{filepath.Dir(n.ConfDir), n.ConfDir, n.BinDir, filepath.Dir(filepath.Dir(n.Image)), filepath.Dir(n.Image), n.Image} {
		must(t, os.Chmod(dir, 0o777))
	}
	cmd := asNobody(t, n.command("install", "--once"))
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "05-root.conflist cannot be read by the installer (the runtime may be able to)") || !strings.Contains(string(out), "permission denied") {
		t.Errorf("%v: %s", err, out)
	}
}

func asNobody(t *testing.T, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	args := lab.User{UID: 65534, NoNewPrivs: true}.Args(cmd.Args...)
	path, err := lab.Look(args[0])
	must(t, err)
	cmd.Path, cmd.Args = path, args
	return cmd
}
