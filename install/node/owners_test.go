package node_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/install/node"
	"github.com/tproxy-cni/tproxy-cni/install/node/nodetest"
)

// TestOwnersGoOn: what others do to their files while the plugin is installed.
func TestOwnersGoOn(t *testing.T) {
	// A program outside of both directories, which a link may lead to.
	elsewhere := func(n *nodetest.Node) string { return filepath.Join(n.Image, "busybox") }
	const single, converted = "10-bridge.conf", "10-bridge-tproxy-cni.conflist"
	bridge := func(n *nodetest.Node) string { return n.Configs[single] }
	for _, tc := range []struct {
		name, file string
		change     func(t *testing.T, n *nodetest.Node)
		reason     string   // of the patch that follows
		plugins    []string // then
		left       []string // files after uninstall
	}{
		{
			"single rewritten", single,
			func(t *testing.T, n *nodetest.Node) {
				n.WriteConf(single, strings.Replace(bridge(n), "10.", "11.", 1))
			}, "original changed",
			[]string{"bridge", "tproxy-cni"},
			[]string{single},
		},
		{
			"single reformatted", single,
			func(t *testing.T, n *nodetest.Node) { n.WriteConf(single, bridge(n)+"\n\n") },
			"",
			[]string{"bridge", "tproxy-cni"},
			[]string{single},
		},
		{
			"another chained into the converted list", single,
			func(t *testing.T, n *nodetest.Node) {
				path := filepath.Join(n.ConfDir, converted)
				data, err := os.ReadFile(path)
				must(t, err)
				text := strings.TrimSuffix(string(data), "\n  ]\n}\n") + `,{"type":"linkerd-cni"}]}`
				must(t, os.WriteFile(path, []byte(text), 0o600))
			}, "",
			[]string{"bridge", "tproxy-cni", "linkerd-cni"},
			[]string{single},
		},
		{
			"single replaced by a list", single,
			func(t *testing.T, n *nodetest.Node) {
				must(t, os.Remove(filepath.Join(n.ConfDir, single)))
				n.WriteConf("10-bridge.conflist", `{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"ptp"}]}`)
			}, "entry missing",
			[]string{"ptp", "tproxy-cni"},
			[]string{"10-bridge.conflist"},
		},
		{
			"a list that comes first", single,
			func(t *testing.T, n *nodetest.Node) {
				n.WriteConf("05-a.conflist", `{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"ptp"}]}`)
			}, "entry missing",
			[]string{"ptp", "tproxy-cni"},
			[]string{"05-a.conflist", single},
		},
		{
			"a single that comes first", "10-flannel.conflist",
			func(t *testing.T, n *nodetest.Node) {
				n.WriteConf("05-a.conf", `{"name":"n","cniVersion":"1.0.0","type":"ptp"}`)
			}, "entry missing",
			[]string{"ptp", "tproxy-cni"},
			[]string{"05-a.conf", "10-flannel.conflist"},
		},
		{
			"list rewritten", "10-flannel.conflist",
			func(t *testing.T, n *nodetest.Node) {
				n.WriteConf("10-flannel.conflist", n.Configs["10-flannel.conflist"])
			},
			"entry missing",
			[]string{"flannel", "portmap", "bandwidth", "tproxy-cni"},
			[]string{"10-flannel.conflist"},
		},
		{
			"binary removed", "10-flannel.conflist",
			func(t *testing.T, n *nodetest.Node) { must(t, os.Remove(filepath.Join(n.BinDir, "tproxy-cni"))) },
			"binary missing", nil,
			[]string{"10-flannel.conflist"},
		},
		{
			"binary changed", "10-flannel.conflist",
			func(t *testing.T, n *nodetest.Node) {
				must(t, os.WriteFile(filepath.Join(n.BinDir, "tproxy-cni"), []byte("changed"), 0o755))
			}, "binary changed", nil,
			[]string{"10-flannel.conflist"},
		},
		{
			"binary not executable", "10-flannel.conflist",
			func(t *testing.T, n *nodetest.Node) { must(t, os.Chmod(filepath.Join(n.BinDir, "tproxy-cni"), 0o644)) },
			"binary changed", nil,
			[]string{"10-flannel.conflist"},
		},
		{
			"binary a link", "10-flannel.conflist",
			func(t *testing.T, n *nodetest.Node) {
				must(t, os.Remove(filepath.Join(n.BinDir, "tproxy-cni")))
				must(t, os.WriteFile(elsewhere(n), []byte("another program"), 0o755))
				must(t, os.Symlink(elsewhere(n), filepath.Join(n.BinDir, "tproxy-cni")))
			}, "binary changed", nil,
			[]string{"10-flannel.conflist"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx := context.Background()
			n := nodetest.New(t, tc.file)
			target := n.Installer()
			_, err := target.Install(ctx)
			must(t, err)
			tc.change(t, n)
			o, err := target.Install(ctx)
			must(t, err)
			if got := strings.Join(o.Patches, ","); tc.reason == "" && got != "" || !strings.HasPrefix(got, tc.reason) {
				t.Errorf("patches %q, want %q", got, tc.reason)
			}
			if data, err := os.ReadFile(elsewhere(n)); string(data) != "another program" && (err == nil || tc.name == "binary a link") {
				t.Errorf("a file behind a symbolic link was written or removed: %.40q, %v", data, err)
			}
			if got := nodetest.Types(t, n.ConfDir); tc.plugins != nil && !slices.Equal(got, tc.plugins) {
				t.Errorf("plugins are %q, want %q", got, tc.plugins)
			}
			if _, err = target.Uninstall(ctx, node.Remove); err != nil {
				t.Fatal(err)
			}
			var left []string
			for name, text := range nodetest.Tree(t, n.ConfDir) {
				left = append(left, name)
				if _, data, _ := strings.Cut(text, "\n"); data != n.Configs[name] {
					t.Errorf("%s is\n%s\nits owner wrote\n%s", name, data, n.Configs[name])
				}
			}
			if slices.Sort(left); !slices.Equal(left, tc.left) {
				t.Errorf("left %q, want %q", left, tc.left)
			}
		})
	}
}
