package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/fsnotify/fsnotify"
	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/lab"
)

// TestWriteOrder: the content is on the disk before its name is, the program
// before the list that names it, and the directory last.
func TestWriteOrder(t *testing.T) {
	n := newTestNode(t, "10-flannel.conflist")
	n.pad = 0
	n.upgrade("v1")
	node := n.node()
	var ops []string
	node.disk.before = func(op, path string) error {
		where := filepath.Base(path)
		if strings.HasSuffix(path, tempSuffix) {
			where = filepath.Base(filepath.Dir(path)) + "/temporary"
		}
		ops = append(ops, op+" "+where)
		return nil
	}
	_, err := node.install(context.Background())
	must(t, err)
	want := []string{
		"create bin", "write bin/temporary", "chmod bin/temporary", "fsync bin/temporary", "rename tproxy-cni", "fsync bin",
		"create net.d", "write net.d/temporary", "chmod net.d/temporary", "fsync net.d/temporary", "rename 10-flannel.conflist", "fsync net.d",
	}
	if diff := cmp.Diff(want, ops); diff != "" {
		t.Error(diff)
	}
	ops = nil
	_, err = node.uninstall(context.Background(), false)
	must(t, err)
	want = append(slices.Clone(want[6:]), "remove tproxy-cni", "fsync bin")
	if diff := cmp.Diff(want, ops); diff != "" {
		t.Error(diff)
	}
}

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

// TestLostRace: a list that its owner rewrites between our reading and our
// writing is read again, and not overwritten by what it was.
func TestLostRace(t *testing.T) {
	n := newTestNode(t, "10-flannel.conflist")
	node := n.node()
	newer := strings.Replace(n.configs["10-flannel.conflist"], "cbr0", "cbr1", 1)
	once := false
	node.disk.before = func(op, path string) error {
		if op == "fsync" && strings.HasPrefix(path, n.confDir) && !once {
			once = true
			n.writeConf("10-flannel.conflist", newer)
		}
		return nil
	}
	_, err := node.install(context.Background())
	must(t, err)
	if list, err := load(n.confDir); err != nil || list.Name != "cbr1" {
		t.Errorf("the owner's change is lost: %+v %v", list, err)
	}
	_, err = node.uninstall(context.Background(), false)
	must(t, err)
	if data, _ := os.ReadFile(filepath.Join(n.confDir, "10-flannel.conflist")); string(data) != newer {
		t.Errorf("after uninstall:\n%s", data)
	}
}

// TestDataLink: a directory of the kind that is swapped as a whole through a
// link keeps its links, and the runtime, which hears of no change behind them,
// is told. A link out of the directory is not followed.
func TestDataLink(t *testing.T) {
	n := newTestNode(t, "10-flannel.conflist")
	path := filepath.Join(n.confDir, "10-flannel.conflist")
	for _, v := range []string{"..v1", "..v2"} {
		must(t, os.Mkdir(filepath.Join(n.confDir, v), 0o755))
		must(t, os.WriteFile(filepath.Join(n.confDir, v, "10-flannel.conflist"), []byte(n.configs["10-flannel.conflist"]), 0o644))
	}
	must(t, os.Remove(path))
	must(t, os.Symlink("..v1", filepath.Join(n.confDir, "..data")))
	must(t, os.Symlink("..data/10-flannel.conflist", path))
	before := tree(t, n.confDir)
	check := func(version string) {
		t.Helper()
		heard := hear(t, n.confDir)
		_, err := n.node().install(context.Background())
		must(t, err)
		heard()
		if got := types(t, n.confDir); !slices.Contains(got, contract.PluginType) {
			t.Errorf("%s: plugins are %q", version, got)
		}
		if diff := cmp.Diff(before, tree(t, n.confDir)); diff != "" {
			t.Errorf("%s: the directory changed:\n%s", version, diff)
		}
	}
	check("..v1")
	must(t, os.Symlink("..v2", filepath.Join(n.confDir, "..data_tmp")))
	must(t, os.Rename(filepath.Join(n.confDir, "..data_tmp"), filepath.Join(n.confDir, "..data")))
	before = tree(t, n.confDir)
	check("..v2")

	other := filepath.Join(n.image, "theirs.conflist")
	must(t, os.WriteFile(other, []byte(n.configs["10-flannel.conflist"]), 0o644))
	must(t, os.Remove(path))
	must(t, os.Symlink(other, path))
	if _, err := n.node().install(context.Background()); err == nil || !strings.Contains(err.Error(), "out of its directory") {
		t.Errorf("error is %v", err)
	}
	if data, _ := os.ReadFile(other); string(data) != n.configs["10-flannel.conflist"] {
		t.Error("a file out of the directory was written")
	}
}

// TestFollow: what is behind the links of such a directory is watched, also
// after the swap. Without that the installer would only look on its timer.
func TestFollow(t *testing.T) {
	dir := t.TempDir()
	w, err := fsnotify.NewWatcher()
	must(t, err)
	defer w.Close()
	must(t, os.Symlink("..data/a.conflist", filepath.Join(dir, "a.conflist")))
	for _, version := range []string{"..v1", "..v2"} {
		must(t, os.Mkdir(filepath.Join(dir, version), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, version, "a.conflist"), nil, 0o644))
		must(t, os.Symlink(version, filepath.Join(dir, "..data_tmp")))
		must(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
		follow(w, []string{dir})
		for _, want := range []string{dir, filepath.Join(dir, version)} {
			if got := w.WatchList(); !slices.Contains(got, want) {
				t.Errorf("%s: watched are %q", version, got)
			}
		}
	}
}

// hear watches dir as containerd does. The function that it returns fails the
// test unless there has been an event of the kinds that containerd does not
// ignore.
func hear(t *testing.T, dir string) func() {
	t.Helper()
	w, err := fsnotify.NewWatcher()
	must(t, err)
	must(t, w.Add(dir))
	return func() {
		t.Helper()
		defer w.Close()
		lab.Eventually(t, "an event that containerd heeds", func() error {
			select {
			case e := <-w.Events:
				if e.Has(fsnotify.Write) || e.Has(fsnotify.Rename) || e.Has(fsnotify.Remove) {
					return nil
				}
				return errors.New(e.String())
			default:
				return errors.New("none")
			}
		})
	}
}
