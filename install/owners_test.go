package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestOwnersGoOn: what others do to their files while we are installed.
func TestOwnersGoOn(t *testing.T) {
	const single, converted = "10-bridge.conf", "10-bridge-tproxy-cni.conflist"
	bridge := func(n *theNode) string { return n.configs[single] }
	for _, tc := range []struct {
		name, file string
		change     func(t *testing.T, n *theNode)
		reason     string   // of the patch that follows
		plugins    []string // then
		left       []string // files after uninstall
	}{
		{
			"single rewritten", single,
			func(t *testing.T, n *theNode) {
				n.writeConf(single, strings.Replace(bridge(n), "10.", "11.", 1))
			}, "original changed",
			[]string{"bridge", "tproxy-cni"},
			[]string{single},
		},
		{
			"single reformatted", single,
			func(t *testing.T, n *theNode) { n.writeConf(single, bridge(n)+"\n\n") },
			"",
			[]string{"bridge", "tproxy-cni"},
			[]string{single},
		},
		{
			"another chained into the converted list", single,
			func(t *testing.T, n *theNode) {
				path := filepath.Join(n.confDir, converted)
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
			func(t *testing.T, n *theNode) {
				must(t, os.Remove(filepath.Join(n.confDir, single)))
				n.writeConf("10-bridge.conflist", `{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"ptp"}]}`)
			}, "entry missing",
			[]string{"ptp", "tproxy-cni"},
			[]string{"10-bridge.conflist"},
		},
		{
			"a list that comes first", single,
			func(t *testing.T, n *theNode) {
				n.writeConf("05-a.conflist", `{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"ptp"}]}`)
			}, "entry missing",
			[]string{"ptp", "tproxy-cni"},
			[]string{"05-a.conflist", single},
		},
		{
			"a single that comes first", "10-flannel.conflist",
			func(t *testing.T, n *theNode) {
				n.writeConf("05-a.conf", `{"name":"n","cniVersion":"1.0.0","type":"ptp"}`)
			}, "entry missing",
			[]string{"ptp", "tproxy-cni"},
			[]string{"05-a.conf", "10-flannel.conflist"},
		},
		{
			"list rewritten", "10-flannel.conflist",
			func(t *testing.T, n *theNode) { n.writeConf("10-flannel.conflist", n.configs["10-flannel.conflist"]) },
			"entry missing",
			[]string{"flannel", "portmap", "bandwidth", "tproxy-cni"},
			[]string{"10-flannel.conflist"},
		},
		{
			"binary removed", "10-flannel.conflist",
			func(t *testing.T, n *theNode) { must(t, os.Remove(filepath.Join(n.binDir, "tproxy-cni"))) },
			"binary missing", nil,
			[]string{"10-flannel.conflist"},
		},
		{
			"binary changed", "10-flannel.conflist",
			func(t *testing.T, n *theNode) {
				must(t, os.WriteFile(filepath.Join(n.binDir, "tproxy-cni"), []byte("changed"), 0o755))
			}, "binary changed", nil,
			[]string{"10-flannel.conflist"},
		},
		{
			"binary not executable", "10-flannel.conflist",
			func(t *testing.T, n *theNode) { must(t, os.Chmod(filepath.Join(n.binDir, "tproxy-cni"), 0o644)) },
			"binary changed", nil,
			[]string{"10-flannel.conflist"},
		},
		{
			"binary a link", "10-flannel.conflist",
			func(t *testing.T, n *theNode) {
				must(t, os.Remove(filepath.Join(n.binDir, "tproxy-cni")))
				n.elsewhere = filepath.Join(n.image, "busybox")
				must(t, os.WriteFile(n.elsewhere, []byte("not ours"), 0o755))
				must(t, os.Symlink(n.elsewhere, filepath.Join(n.binDir, "tproxy-cni")))
			}, "binary changed", nil,
			[]string{"10-flannel.conflist"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx := context.Background()
			n := newTestNode(t, tc.file)
			node := n.node()
			_, err := node.install(ctx)
			must(t, err)
			tc.change(t, n)
			o, err := node.install(ctx)
			must(t, err)
			if got := strings.Join(o.patches, ","); tc.reason == "" && got != "" || !strings.HasPrefix(got, tc.reason) {
				t.Errorf("patches %q, want %q", got, tc.reason)
			}
			if n.elsewhere != "" {
				if data, _ := os.ReadFile(n.elsewhere); string(data) != "not ours" {
					t.Errorf("a file behind a symbolic link was written: %.40q", data)
				}
			}
			if got := types(t, n.confDir); tc.plugins != nil && !slices.Equal(got, tc.plugins) {
				t.Errorf("plugins are %q, want %q", got, tc.plugins)
			}
			if _, err = node.uninstall(ctx, false); err != nil {
				t.Fatal(err)
			}
			var left []string
			for name, text := range tree(t, n.confDir) {
				left = append(left, name)
				if _, data, _ := strings.Cut(text, "\n"); data != n.configs[name] {
					t.Errorf("%s is\n%s\nits owner wrote\n%s", name, data, n.configs[name])
				}
			}
			if slices.Sort(left); !slices.Equal(left, tc.left) {
				t.Errorf("left %q, want %q", left, tc.left)
			}
		})
	}
}
