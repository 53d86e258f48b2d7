package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestBrokenOriginal: the list that we made of a plugin's file keeps the node
// going while that file is broken, also through an uninstall.
func TestBrokenOriginal(t *testing.T) {
	n := newTestNode(t, "10-bridge.conf")
	_, err := n.node().install(context.Background())
	must(t, err)
	whole := n.configs["10-bridge.conf"]
	n.writeConf("10-bridge.conf", "")
	if _, err = n.node().install(context.Background()); err == nil || !strings.Contains(err.Error(), "waiting for whoever is writing it") {
		t.Errorf("error is %v", err)
	}
	if got := types(t, n.confDir); !slices.Equal(got, []string{"bridge", "tproxy-cni"}) {
		t.Errorf("plugins are %q", got)
	}
	for range 2 {
		_, err = n.node().uninstall(context.Background(), false)
		if err == nil || !strings.Contains(err.Error(), "10-bridge-tproxy-cni.conflist stays until 10-bridge.conf is valid") {
			t.Errorf("error is %v", err)
		}
		if got := types(t, n.confDir); !slices.Equal(got, []string{"bridge"}) {
			t.Errorf("after uninstall plugins are %q", got)
		}
	}
	n.writeConf("10-bridge.conf", whole)
	_, err = n.node().uninstall(context.Background(), false)
	must(t, err)
	if left := tree(t, n.confDir); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

// TestNamedElsewhere: while a configuration that is not ours to edit names the
// program, uninstall says so and leaves the program there.
func TestNamedElsewhere(t *testing.T) {
	const delegate = `{"name":"m","cniVersion":"1.0.0","type":"multus","delegates":[{"name":"n","plugins":[{"type":"ptp"},{"type": "tproxy-cni"}]}]}`
	for name, data := range map[string]string{
		"00-multus.conf":         delegate,
		"00-multus.json":         delegate,
		"00-multus.conflist":     `{"name":"m","cniVersion":"1.0.0","plugins":[` + delegate + `]}`,
		"00-multus.escaped.conf": strings.ReplaceAll(delegate, "y-c", `y\u002dc`),
		"10-alone.conflist":      `{"name":"m","cniVersion":"1.0.0","plugins":[{"type":"tproxy-cni"}]}`,
	} {
		n := newTestNode(t, "10-flannel.conflist")
		_, err := n.node().install(context.Background())
		must(t, err)
		n.writeConf(name, data)
		_, err = n.node().uninstall(context.Background(), false)
		if err == nil || !strings.Contains(err.Error(), name+" still names tproxy-cni") {
			t.Errorf("%s: error is %v", name, err)
		}
		if _, err := os.Stat(filepath.Join(n.binDir, contract.PluginType)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		must(t, os.Rename(filepath.Join(n.confDir, name), filepath.Join(n.confDir, name+".cilium_bak")))
		o, err := n.node().uninstall(context.Background(), false)
		if err != nil || len(o.notes) != 1 || !strings.Contains(o.notes[0], name+".cilium_bak has our entry") {
			t.Errorf("%s set aside: notes %q, error %v", name, o.notes, err)
		}
	}
}
