package node_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/install/node/nodetest"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// networks are the networks that containerd makes for each pod, in the order of their
// interfaces, as types of plugins: of the first files up to most, or of all for 0, as
// go-cni loads them.
func networks(t *testing.T, dir string, most int) (all [][]string) {
	t.Helper()
	files, err := libcni.ConfFiles(dir, []string{".conf", ".conflist", ".json"})
	must(t, err)
	for _, f := range files {
		data, err := os.ReadFile(f)
		must(t, err)
		var l *libcni.NetworkConfigList
		if strings.HasSuffix(f, ".conflist") {
			l, err = libcni.NetworkConfFromBytes(data)
		} else {
			var c *libcni.PluginConfig
			c, err = libcni.NetworkPluginConfFromBytes(data)
			must(t, err)
			//lint:ignore SA1019 containerd does so
			l, err = libcni.ConfListFromConf(c)
		}
		must(t, err)
		var types []string
		for _, p := range l.Plugins {
			types = append(types, p.Network.Type)
		}
		if all = append(all, types); len(all) == most {
			break
		}
	}
	return all
}

// TestSeveralNetworks: where containerd makes a network of several configurations, a pod
// has as many as without the plugin, and the first one has the plugin or the installer
// waits and says what to do.
func TestSeveralNetworks(t *testing.T) {
	const list, single = `{"name":"l","cniVersion":"1.0.0","plugins":[{"type":"ptp"}]}`, `{"name":"s","cniVersion":"1.0.0","type":"bridge"}`
	for what, tc := range map[string]struct {
		files map[string]string
		waits bool
	}{
		"a single":               {map[string]string{"10-s.conf": single}, true},
		"a single as .json":      {map[string]string{"10-s.json": single}, true},
		"a list and a single":    {map[string]string{"05-l.conflist": list, "10-s.conf": single}, false},
		"a single before a list": {map[string]string{"05-s.conf": single, "10-l.conflist": list}, true},
		"two lists":              {map[string]string{"05-l.conflist": list, "10-m.conflist": strings.Replace(list, `"l"`, `"m"`, 1)}, false},
	} {
		for _, most := range []int{0, 2} {
			t.Run(what, func(t *testing.T) {
				n := nodetest.New(t)
				for name, text := range tc.files {
					n.WriteOldConf(name, text)
				}
				before := networks(t, n.ConfDir, most)
				n.Installed() // as long as max_conf_num was 1
				target := n.Installer()
				target.Several = true
				_, err := target.Install(t.Context())
				if (err != nil) != tc.waits || err != nil && !strings.Contains(err.Error(), "max_conf_num is not 1") {
					t.Fatalf("error is %v, to wait is %t", err, tc.waits)
				}
				want := before
				if !tc.waits {
					want[0] = append(want[0], contract.PluginType)
				} else if diff := cmp.Diff(len(tc.files), len(nodetest.Names(t, n.ConfDir))); diff != "" {
					t.Errorf("files: %s", diff)
				}
				if diff := cmp.Diff(want, networks(t, n.ConfDir, most)); diff != "" {
					t.Errorf("networks (-want +got):\n%s", diff)
				}
				for name, text := range tc.files {
					if data, err := os.ReadFile(filepath.Join(n.ConfDir, name)); tc.waits && (err != nil || string(data) != text) {
						t.Errorf("%s: %v %s", name, err, data)
					}
				}
			})
		}
	}
}

// TestSeveralNetworksCleanUp: no converted list stays where it would be a network more,
// whatever has become of its original and of the file that runtimes use.
func TestSeveralNetworksCleanUp(t *testing.T) {
	const single, unfit = `{"name":"s","cniVersion":"1.0.0","type":"bridge"}`, `{"name":"l","cniVersion":"9.9.9","plugins":[{"type":"ptp"}]}`
	for what, change := range map[string]func(*nodetest.Node){
		"its original is gone": func(n *nodetest.Node) {
			must(t, os.Remove(filepath.Join(n.ConfDir, "10-s.conf")))
			n.WriteOldConf("20-other.conf", single)
		},
		"its original is not the first":       func(n *nodetest.Node) { n.WriteOldConf("05-first.conf", single) },
		"a list that the plugin does not fit": func(n *nodetest.Node) { n.WriteOldConf("05-first.conflist", unfit) },
		"an original that is invalid":         func(n *nodetest.Node) { n.WriteOldConf("10-s.conf", "{") },
	} {
		t.Run(what, func(t *testing.T) {
			n := nodetest.New(t)
			n.WriteOldConf("10-s.conf", single)
			n.Installed() // as long as max_conf_num was 1
			change(n)
			target := n.Installer()
			target.Several = true
			if _, err := target.Install(t.Context()); err == nil {
				t.Error("it does not wait")
			}
			if names := nodetest.Names(t, n.ConfDir); slices.Contains(names, "10-s-tproxy-cni.conflist") {
				t.Errorf("files: %v", names)
			}
		})
	}
}
