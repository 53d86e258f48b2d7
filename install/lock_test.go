package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/install/disk"
	"github.com/tproxy-cni/tproxy-cni/install/node"
	"github.com/tproxy-cni/tproxy-cni/install/node/nodetest"
	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestLockOfAnotherUser: a user of the node who may read the directories locks
// them, and all files that this user may open, forever. The installer still works.
func TestLockOfAnotherUser(t *testing.T) {
	lab.Need(t, "flock", "setpriv")
	n := newTestNode(t, "10-flannel.conflist")
	for _, dir := range []string{filepath.Dir(n.ConfDir), n.ConfDir, n.BinDir} {
		must(t, os.Chmod(dir, 0o755))
	}
	must(t, os.Chmod(filepath.Join(n.ConfDir, "10-flannel.conflist"), 0o644))
	hold := func(path string) {
		t.Helper()
		held := &lab.Output{}
		cmd := exec.Command("flock", path, "sh", "-c", "echo held; exec sleep 1000")
		cmd.Stdout, cmd.Stderr = held, held
		asNobody(t, cmd)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		must(t, cmd.Start())
		t.Cleanup(func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); _ = cmd.Wait() })
		lab.Eventually(t, "the lock on "+path, func() error {
			if !strings.Contains(held.String(), "held") {
				return errors.New(held.String())
			}
			return nil
		})
	}
	for _, path := range []string{n.ConfDir, n.BinDir, filepath.Join(n.ConfDir, "10-flannel.conflist"), filepath.Join(n.BinDir, "bridge")} {
		hold(path)
	}
	s := n.start("install", "--preflight=false")
	s.want("/readyz", 200)
	n.WriteConf("10-flannel.conflist", n.Configs["10-flannel.conflist"])
	n.wantPlugins("flannel", "portmap", "bandwidth", contract.PluginType)
	s.stop()

	// While an installer has the lock, other users cannot open its file.
	unlock, err := disk.Lock(t.Context(), n.ConfDir)
	must(t, err)
	for _, args := range [][]string{{"flock", "-n"}, {"flock", "-n", "-s"}} {
		out, err := asNobody(t, exec.Command(args[0], append(args[1:], filepath.Join(n.ConfDir, disk.LockName), "true")...)).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "Permission denied") {
			t.Errorf("%q: %v %s", args, err, out)
		}
	}
	unlock()
	if _, err := n.Installer().Uninstall(context.Background(), node.Remove); err != nil {
		t.Error(err)
	}
	if left := nodetest.Names(t, n.ConfDir); len(left) != 1 {
		t.Errorf("left: %q", left)
	}
}

// TestNoInotify: without inotify instances or watches the installer logs that
// once, and checks on its timer.
func TestNoInotify(t *testing.T) {
	lab.Need(t, "unshare")
	for limit, want := range map[string]string{
		"max_inotify_instances": "too many open files", "max_inotify_watches": "fs.inotify.max_user_watches",
	} {
		t.Run(limit, func(t *testing.T) {
			n := newTestNode(t, "10-flannel.conflist")
			cmd := n.command("install", "--preflight=false", "--listen", "127.0.0.1:0")
			cmd.Env = append(cmd.Env, envTimer+"=50ms")
			path, err := lab.Look("unshare")
			must(t, err)
			// A limit of a user namespace of the test's own.
			cmd.Path, cmd.Args = path, append([]string{
				"unshare", "--user", "--map-root-user", "sh", "-c", `echo 0 > "/proc/sys/user/$0" && exec "$@"`, limit,
			}, cmd.Args...)
			s := n.serve(cmd)
			s.want("/readyz", 200)
			for range 3 {
				n.WriteConf("10-flannel.conflist", n.Configs["10-flannel.conflist"])
				n.wantPlugins("flannel", "portmap", "bandwidth", contract.PluginType)
			}
			if log := s.log.String(); strings.Count(log, "no file notifications") != 1 || !strings.Contains(log, want) {
				t.Errorf("want once %q:\n%s", want, log)
			}
		})
	}
}

// TestReadOnlyInPlace: if everything is in place, directories that cannot be
// written are not an error.
func TestReadOnlyInPlace(t *testing.T) {
	lab.Need(t, "unshare", "mount")
	n := newTestNode(t, "10-flannel.conflist")
	_, err := n.Installer().Install(context.Background())
	must(t, err)
	install := n.command("install", "--once")
	const script = `set -e
for dir in "$1" "$2"; do mount --bind "$dir" "$dir"; mount -o remount,bind,ro "$dir"; done
touch "$1/x" 2>/dev/null && exit 7
shift 2
exec "$@"`
	cmd := exec.Command("unshare", append([]string{"--mount", "sh", "-c", script, "sh", n.ConfDir, n.BinDir}, install.Args...)...)
	cmd.Env = install.Env
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "msg=ready") {
		t.Errorf("%v\n%s", err, out)
	}
}
