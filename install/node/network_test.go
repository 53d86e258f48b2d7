package node_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"github.com/tproxy-cni/tproxy-cni/install/node"
	"github.com/tproxy-cni/tproxy-cni/install/node/nodetest"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// crioNetwork is the network of a name that CRI-O uses: the first file that is valid
// and has it.
func crioNetwork(t *testing.T, dir, name string) *libcni.NetworkConfigList {
	t.Helper()
	files, err := libcni.ConfFiles(dir, []string{".conf", ".conflist", ".json"})
	must(t, err)
	for _, f := range files { // ReadDir has sorted them
		data, err := os.ReadFile(f)
		must(t, err)
		l, err := libcni.NetworkConfFromBytes(data)
		if !strings.HasSuffix(f, ".conflist") {
			var c *libcni.PluginConfig
			if c, err = libcni.NetworkPluginConfFromBytes(data); err == nil {
				//lint:ignore SA1019 CRI-O does so
				l, err = libcni.ConfListFromConf(c)
			}
		}
		if err == nil && l.Name == name {
			return l
		}
	}
	t.Fatalf("no network %s", name)
	return nil
}

// TestNetworkName: the entry gets into the list of the runtime's network, wherever it
// sorts, and into no other.
func TestNetworkName(t *testing.T) {
	list := func(name, plugin string) string {
		return fmt.Sprintf(`{"name":%q,"cniVersion":"1.0.0","plugins":[{"type":%q}]}`, name, plugin)
	}
	single := func(name, plugin string) string {
		return fmt.Sprintf(`{"name":%q,"cniVersion":"1.0.0","type":%q}`, name, plugin)
	}
	for what, tc := range map[string]struct {
		files map[string]string
		list  string // that has the entry
		note  string
		err   string
	}{
		"the second":      {map[string]string{"05-a.conflist": list("a", "ptp"), "10-x.conflist": list("x", "bridge")}, "10-x.conflist", "", ""},
		"a single":        {map[string]string{"05-a.conflist": list("a", "ptp"), "10-x.conf": single("x", "bridge")}, "10-x-tproxy-cni.conflist", "", ""},
		"behind a single": {map[string]string{"05-a.conf": single("a", "ptp"), "10-x.conflist": list("x", "bridge")}, "10-x.conflist", "", ""},
		"behind an invalid one": {
			map[string]string{"05-a.conflist": "{", "10-x.conflist": list("x", "bridge")},
			"10-x.conflist", "05-a.conflist is invalid", "",
		},
		"two": {
			map[string]string{"10-x.conflist": list("x", "bridge"), "20-y.conf": single("x", "ptp")},
			"10-x.conflist", "20-y.conf is also named x: CRI-O uses the first of them, 10-x.conflist", "",
		},
		"none": {
			map[string]string{"05-a.conflist": list("a", "ptp"), "10-b.conf": single("b\nc", "ptp")},
			"", "",
			`no network configuration is named x, as --network-name wants: there is a in 05-a.conflist, "b\nc" in 10-b.conf`,
		},
		"none at all": {nil, "", "", "the cluster's network plugin has not written one yet"},
	} {
		t.Run(what, func(t *testing.T) {
			n := nodetest.New(t)
			for name, text := range tc.files {
				n.WriteOldConf(name, text)
			}
			target := n.Installer()
			target.Network = "x"
			o, err := target.Install(t.Context())
			if (err != nil) != (tc.err != "") || err != nil && !strings.Contains(err.Error(), tc.err) || o.List != tc.list {
				t.Fatalf("list %q, error %v, want %q, %q", o.List, err, tc.list, tc.err)
			}
			if notes := strings.Join(o.Notes, "\n"); !strings.Contains(notes, tc.note) || tc.note == "" && notes != "" {
				t.Errorf("notes %q, want %q", notes, tc.note)
			}
			s := node.Look(t.Context(), n.ConfDir, n.BinDir, "x")
			if s.List != tc.list || (s.EntryErr == nil) != (tc.err == "") {
				t.Errorf("Look: %q, %v", s.List, s.EntryErr)
			}
			if tc.err != "" {
				return
			}
			l := crioNetwork(t, n.ConfDir, "x")
			if len(l.Plugins) != 2 || !nodetest.IsPlugin(l.Plugins[1]) {
				t.Errorf("CRI-O runs %+v", l.Plugins)
			}
			for name := range nodetest.Tree(t, n.ConfDir) {
				data, err := os.ReadFile(filepath.Join(n.ConfDir, name))
				must(t, err)
				if got := strings.Contains(string(data), contract.PluginType); got != (name == tc.list) {
					t.Errorf("%s has the entry: %t", name, got)
				}
			}
			_, err = target.Uninstall(t.Context(), node.Remove)
			must(t, err)
			for name, text := range tc.files {
				if data, err := os.ReadFile(filepath.Join(n.ConfDir, name)); err != nil || string(data) != text {
					t.Errorf("after uninstall %s: %v %s", name, err, data)
				}
			}
		})
	}
}
