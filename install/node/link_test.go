package node_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/install/node"
	"github.com/tproxy-cni/tproxy-cni/install/node/nodetest"
	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestDataLink: a directory that is swapped as a whole through a link keeps its
// links, and the runtime, which gets no event for a change behind them, is
// notified. A link out of the directory is not followed.
func TestDataLink(t *testing.T) {
	n := nodetest.New(t, "10-flannel.conflist")
	path := filepath.Join(n.ConfDir, "10-flannel.conflist")
	for _, v := range []string{"..v1", "..v2"} {
		must(t, os.Mkdir(filepath.Join(n.ConfDir, v), 0o755))
		must(t, os.WriteFile(filepath.Join(n.ConfDir, v, "10-flannel.conflist"), []byte(n.Configs["10-flannel.conflist"]), 0o644))
	}
	must(t, os.Remove(path))
	must(t, os.Symlink("..v1", filepath.Join(n.ConfDir, "..data")))
	must(t, os.Symlink("..data/10-flannel.conflist", path))
	before := nodetest.Tree(t, n.ConfDir)
	check := func(version string) {
		t.Helper()
		heard := hear(t, n.ConfDir)
		_, err := n.Installer().Install(context.Background())
		must(t, err)
		heard()
		if got := nodetest.Types(t, n.ConfDir); !slices.Contains(got, contract.PluginType) {
			t.Errorf("%s: plugins are %q", version, got)
		}
		if diff := cmp.Diff(before, nodetest.Tree(t, n.ConfDir)); diff != "" {
			t.Errorf("%s: the directory changed:\n%s", version, diff)
		}
	}
	check("..v1")
	must(t, os.Symlink("..v2", filepath.Join(n.ConfDir, "..data_tmp")))
	must(t, os.Rename(filepath.Join(n.ConfDir, "..data_tmp"), filepath.Join(n.ConfDir, "..data")))
	before = nodetest.Tree(t, n.ConfDir)
	check("..v2")

	other := filepath.Join(n.Image, "theirs.conflist")
	must(t, os.WriteFile(other, []byte(n.Configs["10-flannel.conflist"]), 0o644))
	must(t, os.Remove(path))
	must(t, os.Symlink(other, path))
	if _, err := n.Installer().Install(context.Background()); err == nil || !strings.Contains(err.Error(), "out of its directory") {
		t.Errorf("error is %v", err)
	}
	if data, _ := os.ReadFile(other); string(data) != n.Configs["10-flannel.conflist"] {
		t.Error("a file out of the directory was written")
	}
}

// TestLinkedDirectories: both directories may be links, and stay links.
func TestLinkedDirectories(t *testing.T) {
	n := nodetest.New(t, "10-flannel.conflist")
	target := n.Installer()
	before := n.Files()
	for _, dir := range []*string{&target.ConfDir, &target.Binary.Dir} {
		link := *dir + ".link"
		must(t, os.Symlink(filepath.Base(*dir), link))
		*dir = link
	}
	_, err := target.Install(t.Context())
	must(t, err)
	if got := nodetest.Types(t, n.ConfDir); !slices.Contains(got, contract.PluginType) {
		t.Errorf("plugins are %q", got)
	}
	must(t, n.CheckProgram())
	_, err = target.Uninstall(t.Context(), node.Remove)
	must(t, err)
	if diff := cmp.Diff(before, n.Files()); diff != "" {
		t.Errorf("after uninstall (-before +after):\n%s", diff)
	}
}

// TestFollow: the watch covers the directory, its parent, which has an event when
// the directory is made again, and the directories behind links in it, also after
// a swap. Otherwise the installer would notice only on its timer.
func TestFollow(t *testing.T) {
	dir := t.TempDir()
	w := node.NewWatcher(slog.New(slog.DiscardHandler), time.Hour, dir)
	defer w.Close()
	must(t, os.Symlink("..data/a.conflist", filepath.Join(dir, "a.conflist")))
	for _, version := range []string{"..v1", "..v2"} {
		must(t, os.Mkdir(filepath.Join(dir, version), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, version, "a.conflist"), nil, 0o644))
		must(t, os.Symlink(version, filepath.Join(dir, "..data_tmp")))
		must(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
		w.Follow()
		for _, want := range []string{filepath.Dir(dir), dir, filepath.Join(dir, version)} {
			if got := w.WatchList(); !slices.Contains(got, want) {
				t.Errorf("%s: watched are %q", version, got)
			}
		}
	}
}

// hear watches dir as containerd does. The returned function fails the test
// unless there was an event of a kind that containerd does not ignore.
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
