package node_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/install/disk"
	"github.com/tproxy-cni/tproxy-cni/install/node"
	"github.com/tproxy-cni/tproxy-cni/install/node/nodetest"
)

// TestNoLockFile: something else than the installer's file in its place is not
// opened, and the error names it.
func TestNoLockFile(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"pipe":      func(p string) error { return syscall.Mkfifo(p, 0o600) },
		"directory": func(p string) error { return os.Mkdir(p, 0o700) },
		"link":      func(p string) error { return os.Symlink("10-a.conflist", p) },
		"socket":    func(p string) error { return unix.Mknod(p, unix.S_IFSOCK|0o600, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			n := nodetest.New(t)
			n.WriteConf("10-a.conflist", nodetest.ValidList)
			must(t, make(filepath.Join(n.ConfDir, disk.LockName)))
			ends(t, "install", func() {
				_, err := n.Installer().Install(context.Background())
				if err == nil || !strings.Contains(err.Error(), disk.LockName+" is not the regular file that the installer makes: remove it") {
					t.Errorf("error is %v", err)
				}
			})
			must(t, os.RemoveAll(filepath.Join(n.ConfDir, disk.LockName)))
			_, err := n.Installer().Install(context.Background())
			must(t, err)
		})
	}
}

// TestNoChangeNoLock: an attempt that has nothing to change causes no event for
// the runtime.
func TestNoChangeNoLock(t *testing.T) {
	n := nodetest.New(t, "10-flannel.conflist")
	target := n.Installer()
	for range 2 { // the second looks at what the first has made
		_, err := target.Install(context.Background())
		must(t, err)
	}
	mtime := func() unix.Timespec {
		var st unix.Stat_t
		must(t, unix.Stat(n.ConfDir, &st))
		return st.Mtim
	}
	before := mtime()
	o, err := target.Install(context.Background())
	if must(t, err); o.List != "10-flannel.conflist" {
		t.Errorf("list %q", o.List)
	}
	if mtime() != before {
		t.Error("the directory was changed")
	}
	// What a killed one left, after all was done, goes.
	must(t, os.WriteFile(filepath.Join(n.ConfDir, disk.LockName), nil, 0o600))
	_, err = target.Install(context.Background())
	must(t, err)
	if left := nodetest.Names(t, n.ConfDir); len(left) != 1 {
		t.Errorf("left: %q", left)
	}
	_, err = target.Uninstall(context.Background(), node.Remove)
	must(t, err)
	before = mtime()
	_, err = target.Uninstall(context.Background(), node.Remove)
	if must(t, err); mtime() != before {
		t.Error("uninstall, once more: the directory was changed")
	}
}
