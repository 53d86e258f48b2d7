package main

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/install/node/nodetest"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestRefresh: a release's directories are behind a link, which moves to those of the
// next release, as MicroK8s' (relative) and k3s' (absolute) do. The installer notices at
// once, without its timer, is not ready while the new place has no network yet, and then
// has the plugin there.
func TestRefresh(t *testing.T) {
	for name, target := range map[string]func(root, release string) string{
		"relative": func(_, release string) string { return release },
		"absolute": func(root, release string) string { return filepath.Join(root, release) },
		"two links": func(root, release string) string {
			link := filepath.Join(root, "to-"+release)
			_ = os.Symlink("elsewhere/../"+release, link)
			return "to-" + release
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newTestNode(t, "10-calico.conflist")
			root := filepath.Join(filepath.Dir(n.ConfDir), "snap")
			must(t, os.MkdirAll(filepath.Join(root, "elsewhere"), 0o755))
			const conf, bin = "args/cni-network", "opt/cni/bin"
			release := func(i int) string { return filepath.Join(root, strconv.Itoa(i)) }
			for i := 1; i <= 3; i++ {
				must(t, os.MkdirAll(filepath.Join(release(i), filepath.Dir(conf)), 0o755))
				must(t, os.MkdirAll(filepath.Join(release(i), filepath.Dir(bin)), 0o755))
			}
			must(t, os.Rename(n.ConfDir, filepath.Join(release(1), conf)))
			must(t, os.Rename(n.BinDir, filepath.Join(release(1), bin)))
			flip := func(i int) {
				t.Helper()
				must(t, os.Symlink(target(root, strconv.Itoa(i)), filepath.Join(root, "next")))
				must(t, os.Rename(filepath.Join(root, "next"), filepath.Join(root, "current")))
			}
			flip(1)
			n.ConfDir, n.BinDir = filepath.Join(root, "current", conf), filepath.Join(root, "current", bin)
			cmd := n.command("install", "--preflight=false", "--listen", "127.0.0.1:0")
			cmd.Env = append(cmd.Env, envTimer+"=1h")
			s := n.serve(cmd)
			s.want("/readyz", 200)

			// A release with the network's files, but without the plugin.
			must(t, os.CopyFS(filepath.Join(release(2), bin), os.DirFS(filepath.Join(release(1), bin))))
			must(t, os.Remove(filepath.Join(release(2), bin, contract.PluginType)))
			must(t, os.Mkdir(filepath.Join(release(2), conf), 0o755))
			text := []byte(n.Configs["10-calico.conflist"])
			must(t, os.WriteFile(filepath.Join(release(2), conf, "10-calico.conflist"), text, 0o600))
			flip(2)
			n.wantPlugins("calico", "portmap", "bandwidth", contract.PluginType)
			s.want("/readyz", 200)
			must(t, n.CheckProgram())

			// One whose directories come later.
			flip(3)
			s.want("/readyz", 503, "not ready: ", conf)
			must(t, os.CopyFS(filepath.Join(release(3), bin), os.DirFS(filepath.Join(release(2), bin))))
			must(t, os.Mkdir(filepath.Join(release(3), conf), 0o755))
			s.want("/readyz", 503, "no network configuration")
			must(t, os.WriteFile(filepath.Join(n.ConfDir, "10-calico.conflist"), text, 0o600))
			n.wantPlugins("calico", "portmap", "bandwidth", contract.PluginType)
			s.want("/readyz", 200)

			flip(1) // snap revert
			s.want("/readyz", 200)
			n.Edit("10-calico.conflist", `"mode":"nat"`, `"mode":"tproxy"`)
			n.wantPlugins("calico", "portmap", "bandwidth", contract.PluginType)
			s.stop()
			if len(nodetest.Names(t, n.ConfDir)) != 1 {
				t.Errorf("left: %q", nodetest.Names(t, n.ConfDir))
			}
		})
	}
}
