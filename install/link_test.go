package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fsnotify/fsnotify"
	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/lab"
)

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

// TestLinkedDirectories: both directories may be links to where they are, and
// stay so.
func TestLinkedDirectories(t *testing.T) {
	n := newTestNode(t, "10-flannel.conflist")
	node := n.node()
	before := n.files()
	for _, dir := range []*string{&node.confDir, &node.plugin.dir} {
		link := *dir + ".link"
		must(t, os.Symlink(filepath.Base(*dir), link))
		*dir = link
	}
	_, err := node.install(t.Context())
	must(t, err)
	if got := types(t, n.confDir); !slices.Contains(got, contract.PluginType) {
		t.Errorf("plugins are %q", got)
	}
	must(t, n.programRight())
	_, err = node.uninstall(t.Context(), false)
	must(t, err)
	if diff := cmp.Diff(before, n.files()); diff != "" {
		t.Errorf("after uninstall (-before +after):\n%s", diff)
	}
}

// TestFollow: watched are the directory, the one above, which tells when it is
// made anew, and what is behind the links in it, also after the swap. Without
// that the installer would only look on its timer.
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
		for _, want := range []string{filepath.Dir(dir), dir, filepath.Join(dir, version)} {
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
