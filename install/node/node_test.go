package node_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
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
	"github.com/tproxy-cni/tproxy-cni/install/health"
	"github.com/tproxy-cni/tproxy-cni/install/node"
	"github.com/tproxy-cni/tproxy-cni/install/node/nodetest"
	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// refused are the configurations with which every pod would fail, and why.
var refused = map[string]string{
	"00-multus.conf": "call itself in an endless loop",
}

// TestRoundTrip: on every kind of node the entry is added as the last one, install
// is idempotent, and uninstall restores the node byte for byte.
func TestRoundTrip(t *testing.T) {
	ctx := context.Background()
	for _, name := range slices.Sorted(maps.Keys(nodetest.Configs(t, ".conflist", ".conf", ".json"))) {
		t.Run(name, func(t *testing.T) {
			n := nodetest.New(t, name)
			if os.Geteuid() == 0 {
				must(t, os.Chown(filepath.Join(n.ConfDir, name), 4711, 4712))
			}
			before := nodetest.Tree(t, n.ConfDir)
			base := nodetest.Types(t, n.ConfDir)
			o, err := n.Installer().Install(ctx)
			if why := refused[name]; why != "" {
				if err == nil || !strings.Contains(err.Error(), why) {
					t.Errorf("error is %v, want %q", err, why)
				}
				if diff := cmp.Diff(before, nodetest.Tree(t, n.ConfDir)); diff != "" {
					t.Errorf("changed:\n%s", diff)
				}
				return
			}
			must(t, err)
			if got := nodetest.Types(t, n.ConfDir); !slices.Equal(got, append(base, contract.PluginType)) {
				t.Errorf("plugins are %q, were %q", got, base)
			}
			list, err := nodetest.Load(n.ConfDir)
			must(t, err)
			if last := list.Plugins[len(list.Plugins)-1]; !conflist.Equal(last.Bytes, n.Entry) {
				t.Errorf("entry is %s, want %s", last.Bytes, n.Entry)
			}
			if want := []string{"binary missing", "entry missing"}; !slices.Equal(o.Patches, want) {
				t.Errorf("patches %q, want %q", o.Patches, want)
			}
			installed := nodetest.Tree(t, n.ConfDir)
			for file, text := range installed { // a converted list has the owner and the mode of its original
				meta, _, _ := strings.Cut(text, "\n")
				if was, _, _ := strings.Cut(before[name], "\n"); meta != was {
					t.Errorf("%s is %s, want %s", file, meta, was)
				}
			}
			o, err = n.Installer().Install(ctx)
			if diff := cmp.Diff(installed, nodetest.Tree(t, n.ConfDir)); diff != "" || len(o.Patches) > 0 || err != nil {
				t.Errorf("installed twice: %q %v\n%s", o.Patches, err, diff)
			}
			if _, err = n.Installer().Uninstall(ctx, node.Remove); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, nodetest.Tree(t, n.ConfDir)); diff != "" {
				t.Errorf("after uninstall (-before +after):\n%s", diff)
			}
			if left := n.Programs(); len(left) > 0 {
				t.Errorf("left in the bin dir: %v", left)
			}
			if o, err = n.Installer().Uninstall(ctx, node.Remove); err != nil || len(o.Patches) > 0 {
				t.Errorf("uninstalled twice: %q %v", o.Patches, err)
			}
		})
	}
}

// TestOldBinaryStays: a program that does not run never replaces one that does.
func TestOldBinaryStays(t *testing.T) {
	n := nodetest.New(t, "10-flannel.conflist")
	_, err := n.Installer().Install(context.Background())
	must(t, err)
	before := nodetest.Tree(t, n.BinDir)
	must(t, os.WriteFile(filepath.Join(n.Image, "tproxy-cni"), []byte("#!/bin/sh\nexit 1\n"), 0o755))
	if _, err = n.Installer().Install(context.Background()); err == nil {
		t.Error("no error")
	}
	if diff := cmp.Diff(before, nodetest.Tree(t, n.BinDir)); diff != "" {
		t.Errorf("changed:\n%s", diff)
	}
}

// TestMorePluginDirs: if the runtime has several directories, the network's plugin
// may be in another one; and it may be a link that leads nowhere in a container.
func TestMorePluginDirs(t *testing.T) {
	for name, change := range map[string]func(*nodetest.Node, *node.Node){
		"several": func(n *nodetest.Node, target *node.Node) { target.MorePluginDirs = true },
		"link": func(n *nodetest.Node, _ *node.Node) {
			must(t, os.Symlink("/not/here/flannel", filepath.Join(n.BinDir, "flannel")))
		},
	} {
		n := nodetest.New(t, "10-flannel.conflist")
		must(t, os.Remove(filepath.Join(n.BinDir, "flannel")))
		target := n.Installer()
		change(n, target)
		if _, err := target.Install(context.Background()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDeleted: a directory that was deleted under a mount, here under an open
// file, makes the kubelet start a new container, which mounts the new one.
func TestDeleted(t *testing.T) {
	for _, which := range []string{"conf", "bin"} {
		n := nodetest.New(t, "10-flannel.conflist")
		target := n.Installer()
		dir := map[string]*string{"conf": &target.ConfDir, "bin": &target.Binary.Dir}[which]
		f, err := os.Open(*dir)
		must(t, err)
		defer f.Close()
		must(t, os.RemoveAll(*dir))
		must(t, os.Mkdir(*dir, 0o755))
		*dir = fmt.Sprintf("/proc/self/fd/%d", f.Fd())
		s := health.New(contract.ModeNone, contract.PacketGuardRequired)
		_, err = target.Install(context.Background())
		s.Attempt(node.Outcome{}, "", err)
		answer := httptest.NewRecorder()
		s.Handler(slog.Default()).ServeHTTP(answer, httptest.NewRequest("GET", "/healthz", nil))
		if want := *dir + " was deleted on the node"; answer.Code != 503 || !strings.Contains(answer.Body.String(), want) {
			t.Errorf("%s: %v, /healthz %d %s", which, err, answer.Code, answer.Body)
		}
	}
}

// TestOwnerLost: without CAP_CHOWN the list is written anyway, and a note names
// its former owner.
func TestOwnerLost(t *testing.T) {
	lab.Need(t)
	n := nodetest.New(t, "10-flannel.conflist")
	must(t, os.Chown(filepath.Join(n.ConfDir, "10-flannel.conflist"), 4711, 4712))
	target := n.Installer()
	target.Disk.Before = func(op, _ string) error {
		if op == "chown" {
			return syscall.EPERM
		}
		return nil
	}
	o, err := target.Install(context.Background())
	must(t, err)
	if want := "the owner of 10-flannel.conflist changed from 4711:4712 to 0:0: the installer lacks CAP_CHOWN"; !slices.Equal(o.Notes, []string{want}) {
		t.Errorf("notes %q, want %q", o.Notes, want)
	}
}

// TestChangedMeanwhile: a program that is changed while it is installed does not
// count as verified from then on.
func TestChangedMeanwhile(t *testing.T) {
	n := nodetest.New(t, "10-flannel.conflist")
	target := n.Installer()
	target.Disk.Before = func(op, path string) error {
		if op == "fsync" && path == n.BinDir { // renamed, and not run yet
			return os.Chmod(filepath.Join(n.BinDir, contract.PluginType), 0o711)
		}
		return nil
	}
	_, err := target.Install(t.Context())
	must(t, err)
	target.Disk.Before = nil
	if o, err := target.Install(t.Context()); err != nil || !slices.Equal(o.Patches, []string{"binary changed"}) {
		t.Errorf("patches %q, error %v", o.Patches, err)
	}
	must(t, n.CheckProgram())
	for range 2 { // a verified one is not read again
		_, err = target.Install(t.Context())
		must(t, err)
	}
	if !target.Binary.Verified() {
		t.Error("a verified program is read again")
	}
}

// TestRealPlugin: the real plugin is installed, runs, and accepts the entry.
func TestRealPlugin(t *testing.T) {
	n := nodetest.New(t, "10-calico.conflist")
	source := filepath.Join(n.Image, contract.PluginType)
	must(t, os.Remove(source))
	build := exec.Command("go", "build", "-o", source, "../../plugin")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	target := n.Installer()
	_, err := target.Install(context.Background())
	must(t, err)
	if !slices.Contains(target.Binary.Supported(), "1.0.0") {
		t.Errorf("the plugin supports %q", target.Binary.Supported())
	}
	cmd := exec.Command(filepath.Join(n.BinDir, contract.PluginType))
	cmd.Env = []string{"CNI_COMMAND=STATUS", "CNI_PATH=" + n.BinDir}
	cmd.Stdin = strings.NewReader(`{"cniVersion":"1.1.0","name":"n",` + string(n.Entry[1:]))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("STATUS with the entry: %v\n%s", err, out)
	}
}
