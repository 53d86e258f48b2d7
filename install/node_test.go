package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/install/conflist"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/lab"
)

// configurations are those of testdata.
func configurations(t *testing.T) (names []string) {
	t.Helper()
	for _, suffix := range []string{".conflist", ".conf", ".json"} {
		paths, err := filepath.Glob("testdata/*" + suffix)
		must(t, err)
		for _, p := range paths {
			names = append(names, filepath.Base(p))
		}
	}
	return names
}

// refused are those of testdata in which every pod would fail, and why.
var refused = map[string]string{
	"10-weave.conflist": "cniVersion 0.3.0",
	"00-multus.conf":    "call itself without end",
}

// TestRoundTrip: on every kind of node our entry comes last, twice is as once,
// and uninstall leaves the node byte for byte as it was.
func TestRoundTrip(t *testing.T) {
	ctx := context.Background()
	for _, name := range configurations(t) {
		t.Run(name, func(t *testing.T) {
			n := newTestNode(t, name)
			if os.Geteuid() == 0 {
				must(t, os.Chown(filepath.Join(n.confDir, name), 4711, 4712))
			}
			before := tree(t, n.confDir)
			base := types(t, n.confDir)
			o, err := n.node().install(ctx)
			if why := refused[name]; why != "" {
				if err == nil || !strings.Contains(err.Error(), why) {
					t.Errorf("error is %v, want %q", err, why)
				}
				if diff := cmp.Diff(before, tree(t, n.confDir)); diff != "" {
					t.Errorf("changed:\n%s", diff)
				}
				return
			}
			must(t, err)
			if got := types(t, n.confDir); !slices.Equal(got, append(base, contract.PluginType)) {
				t.Errorf("plugins are %q, were %q", got, base)
			}
			list, err := load(n.confDir)
			must(t, err)
			if last := list.Plugins[len(list.Plugins)-1]; !conflist.Equal(last.Bytes, n.entry) {
				t.Errorf("entry is %s, want %s", last.Bytes, n.entry)
			}
			if want := []string{"binary missing", "entry missing"}; !slices.Equal(o.patches, want) {
				t.Errorf("patches %q, want %q", o.patches, want)
			}
			installed := tree(t, n.confDir)
			for file, text := range installed { // ours, too, has the owner and the mode of the one it is made of
				meta, _, _ := strings.Cut(text, "\n")
				if was, _, _ := strings.Cut(before[name], "\n"); meta != was {
					t.Errorf("%s is %s, want %s", file, meta, was)
				}
			}
			o, err = n.node().install(ctx)
			if diff := cmp.Diff(installed, tree(t, n.confDir)); diff != "" || len(o.patches) > 0 || err != nil {
				t.Errorf("installed twice: %q %v\n%s", o.patches, err, diff)
			}
			if _, err = n.node().uninstall(ctx, false); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, tree(t, n.confDir)); diff != "" {
				t.Errorf("after uninstall (-before +after):\n%s", diff)
			}
			if left := n.programs(); len(left) > 0 {
				t.Errorf("left in the bin dir: %v", left)
			}
			if o, err = n.node().uninstall(ctx, false); err != nil || len(o.patches) > 0 {
				t.Errorf("uninstalled twice: %q %v", o.patches, err)
			}
		})
	}
}

// TestOldBinaryStays: a program that does not run takes no other's place.
func TestOldBinaryStays(t *testing.T) {
	n := newTestNode(t, "10-flannel.conflist")
	_, err := n.node().install(context.Background())
	must(t, err)
	before := tree(t, n.binDir)
	must(t, os.WriteFile(filepath.Join(n.image, "tproxy-cni"), []byte("#!/bin/sh\nexit 1\n"), 0o755))
	if _, err = n.node().install(context.Background()); err == nil {
		t.Error("no error")
	}
	if diff := cmp.Diff(before, tree(t, n.binDir)); diff != "" {
		t.Errorf("changed:\n%s", diff)
	}
}

// TestMorePluginDirs: where the runtime has several, the network's own plugin
// may be in another; and it may be a link that leads nowhere in a container.
func TestMorePluginDirs(t *testing.T) {
	for name, change := range map[string]func(*theNode, *node){
		"several": func(n *theNode, node *node) { node.morePluginDirs = true },
		"link": func(n *theNode, _ *node) {
			must(t, os.Symlink("/not/here/flannel", filepath.Join(n.binDir, "flannel")))
		},
	} {
		n := newTestNode(t, "10-flannel.conflist")
		must(t, os.Remove(filepath.Join(n.binDir, "flannel")))
		node := n.node()
		change(n, node)
		if _, err := node.install(context.Background()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDeleted: a directory that was deleted under a mount, here under an open
// file, makes the kubelet start a new container, which mounts the new one.
func TestDeleted(t *testing.T) {
	for _, which := range []string{"conf", "bin"} {
		n := newTestNode(t, "10-flannel.conflist")
		node := n.node()
		dir := map[string]*string{"conf": &node.confDir, "bin": &node.plugin.dir}[which]
		f, err := os.Open(*dir)
		must(t, err)
		defer f.Close()
		must(t, os.RemoveAll(*dir))
		must(t, os.Mkdir(*dir, 0o755))
		*dir = fmt.Sprintf("/proc/self/fd/%d", f.Fd())
		s := newStatus(contract.ModeNone)
		_, err = node.install(context.Background())
		s.set(outcome{}, "", err)
		answer := httptest.NewRecorder()
		s.handler(slog.Default()).ServeHTTP(answer, httptest.NewRequest("GET", "/healthz", nil))
		if want := *dir + " was deleted on the node"; answer.Code != 503 || !strings.Contains(answer.Body.String(), want) {
			t.Errorf("%s: %v, /healthz %d %s", which, err, answer.Code, answer.Body)
		}
	}
}

// TestOwnerLost: without CAP_CHOWN the list is written nevertheless, and it is
// said whose it was.
func TestOwnerLost(t *testing.T) {
	lab.Need(t)
	n := newTestNode(t, "10-flannel.conflist")
	must(t, os.Chown(filepath.Join(n.confDir, "10-flannel.conflist"), 4711, 4712))
	node := n.node()
	node.disk.before = func(op, _ string) error {
		if op == "chown" {
			return syscall.EPERM
		}
		return nil
	}
	o, err := node.install(context.Background())
	must(t, err)
	if want := "10-flannel.conflist was 4711:4712's and is 0:0's now: the installer lacks CAP_CHOWN"; !slices.Equal(o.notes, []string{want}) {
		t.Errorf("notes %q, want %q", o.notes, want)
	}
}

// TestChangedMeanwhile: a program that somebody changes while we put it is not
// taken for right ever after.
func TestChangedMeanwhile(t *testing.T) {
	n := newTestNode(t, "10-flannel.conflist")
	node := n.node()
	node.disk.before = func(op, path string) error {
		if op == "fsync" && path == n.binDir { // renamed, and not run yet
			return os.Chmod(filepath.Join(n.binDir, contract.PluginType), 0o711)
		}
		return nil
	}
	_, err := node.install(t.Context())
	must(t, err)
	node.disk.before = nil
	if o, err := node.install(t.Context()); err != nil || !slices.Equal(o.patches, []string{"binary changed"}) {
		t.Errorf("patches %q, error %v", o.patches, err)
	}
	must(t, n.programRight())
	for range 2 { // and one that is right is not read again and again
		_, err = node.install(t.Context())
		must(t, err)
	}
	if node.plugin.right == (stamps{}) {
		t.Error("it is")
	}
}

// TestRealPlugin: the plugin itself is put, runs there, and takes the entry
// that we make for it.
func TestRealPlugin(t *testing.T) {
	n := newTestNode(t, "10-calico.conflist")
	source := filepath.Join(n.image, contract.PluginType)
	must(t, os.Remove(source))
	build := exec.Command("go", "build", "-o", source, "../plugin")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	node := n.node()
	_, err := node.install(context.Background())
	must(t, err)
	if !slices.Contains(node.plugin.supported, "1.0.0") {
		t.Errorf("the plugin speaks %q", node.plugin.supported)
	}
	cmd := exec.Command(filepath.Join(n.binDir, contract.PluginType))
	cmd.Env = []string{"CNI_COMMAND=STATUS", "CNI_PATH=" + n.binDir}
	cmd.Stdin = strings.NewReader(`{"cniVersion":"1.1.0","name":"n",` + string(n.entry[1:]))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("STATUS with our entry: %v\n%s", err, out)
	}
}
