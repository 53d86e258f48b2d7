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
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestBrokenOriginal: a converted list keeps the node working while its original
// is broken, also through an uninstall.
func TestBrokenOriginal(t *testing.T) {
	n := nodetest.New(t, "10-bridge.conf")
	_, err := n.Installer().Install(context.Background())
	must(t, err)
	whole := n.Configs["10-bridge.conf"]
	n.WriteConf("10-bridge.conf", "")
	if _, err = n.Installer().Install(context.Background()); err == nil || !strings.Contains(err.Error(), "waiting until it is completely written") {
		t.Errorf("error is %v", err)
	}
	if got := nodetest.Types(t, n.ConfDir); !slices.Equal(got, []string{"bridge", "tproxy-cni"}) {
		t.Errorf("plugins are %q", got)
	}
	for range 2 {
		_, err = n.Installer().Uninstall(context.Background(), node.Remove)
		if err == nil || !strings.Contains(err.Error(), "10-bridge-tproxy-cni.conflist stays until 10-bridge.conf is valid") {
			t.Errorf("error is %v", err)
		}
		if got := nodetest.Types(t, n.ConfDir); !slices.Equal(got, []string{"bridge"}) {
			t.Errorf("after uninstall plugins are %q", got)
		}
	}
	n.WriteConf("10-bridge.conf", whole)
	_, err = n.Installer().Uninstall(context.Background(), node.Remove)
	must(t, err)
	if left := nodetest.Tree(t, n.ConfDir); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

// TestNamedElsewhere: while a configuration that the installer must not edit names
// the plugin, uninstall reports that and leaves the program there.
func TestNamedElsewhere(t *testing.T) {
	const delegate = `{"name":"m","cniVersion":"1.0.0","type":"multus","delegates":[{"name":"n","plugins":[{"type":"ptp"},{"type": "tproxy-cni"}]}]}`
	for name, data := range map[string]string{
		"00-multus.conf":         delegate,
		"00-multus.json":         delegate,
		"00-multus.conflist":     `{"name":"m","cniVersion":"1.0.0","plugins":[` + delegate + `]}`,
		"00-multus.escaped.conf": strings.ReplaceAll(delegate, "y-c", `y\u002dc`),
		"10-alone.conflist":      `{"name":"m","cniVersion":"1.0.0","plugins":[{"type":"tproxy-cni"}]}`,
	} {
		n := nodetest.New(t, "10-flannel.conflist")
		_, err := n.Installer().Install(context.Background())
		must(t, err)
		n.WriteConf(name, data)
		_, err = n.Installer().Uninstall(context.Background(), node.Remove)
		if err == nil || !strings.Contains(err.Error(), name+" still names tproxy-cni") {
			t.Errorf("%s: error is %v", name, err)
		}
		if _, err := os.Stat(filepath.Join(n.BinDir, contract.PluginType)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		must(t, os.Rename(filepath.Join(n.ConfDir, name), filepath.Join(n.ConfDir, name+".cilium_bak")))
		o, err := n.Installer().Uninstall(context.Background(), node.Remove)
		if err != nil || len(o.Notes) != 1 || !strings.Contains(o.Notes[0], name+".cilium_bak has the plugin's entry") {
			t.Errorf("%s set aside: notes %q, error %v", name, o.Notes, err)
		}
	}
}
