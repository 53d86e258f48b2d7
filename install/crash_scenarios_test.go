package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/install/disk"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/settings"
)

// crashes are the scenarios of TestKilled: the command to run on a node with the
// named file, and what has happened there before.
var crashes = []struct {
	name, file, verb string
	before           func(*testing.T, *testNode)
	rival            bool // another installer waits for the lock, and continues
}{
	{name: "install", file: "10-calico.conflist", verb: "install"},
	{name: "install, two at once", file: "10-calico.conflist", verb: "install", rival: true},
	{name: "install beside a single", file: "10-bridge.conf", verb: "install"},
	{name: "install beside a single, two at once", file: "10-bridge.conf", verb: "install", rival: true},
	{name: "install behind a link", file: "10-flannel.conflist", verb: "install", before: func(_ *testing.T, n *testNode) { n.BehindData() }},
	{name: "install over what a crash left", file: "10-aws.conflist", verb: "install", before: litter},
	{name: "upgrade", file: "10-flannel.conflist", verb: "install", before: older},
	{name: "upgrade beside a single", file: "10-bridge.json", verb: "install", before: older},
	{name: "upgrade, two at once", file: "10-flannel.conflist", verb: "install", before: older, rival: true},
	{name: "program changed", file: "10-kindnet.conflist", verb: "install", before: installedThen(func(n *testNode) {
		must(n.t, os.WriteFile(filepath.Join(n.BinDir, contract.PluginType), []byte("x"), 0o755))
	})},
	{name: "list rewritten", file: "10-flannel.conflist", verb: "install", before: installedThen(func(n *testNode) {
		n.WriteConf("10-flannel.conflist", n.Configs["10-flannel.conflist"])
	})},
	{name: "entry edited", file: "10-kindnet.conflist", verb: "install", before: installedThen(func(n *testNode) {
		n.Edit("10-kindnet.conflist", `"mode":"nat"`, `"mode":"tproxy"`)
	})},
	{name: "entry moved", file: "10-kindnet.conflist", verb: "install", before: installedThen(func(n *testNode) {
		n.WriteConf("10-kindnet.conflist", `{"name":"n","cniVersion":"1.0.0","plugins":[`+string(n.Entry)+`,{"type":"ptp"}]}`)
	})},
	{name: "entry twice", file: "10-kindnet.conflist", verb: "install", before: installedThen(func(n *testNode) {
		n.WriteConf("10-kindnet.conflist", `{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"ptp"},`+string(n.Entry)+","+string(n.Entry)+`]}`)
	})},
	{name: "single rewritten", file: "10-bridge.conf", verb: "install", before: installedThen(func(n *testNode) {
		n.WriteConf("10-bridge.conf", strings.Replace(n.Configs["10-bridge.conf"], "10.", "11.", 1))
	})},
	{name: "single replaced by a list", file: "10-bridge.conf", verb: "install", before: installedThen(func(n *testNode) {
		must(n.t, os.Remove(filepath.Join(n.ConfDir, "10-bridge.conf")))
		n.WriteConf("10-bridge.conflist", `{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"ptp"}]}`)
	})},
	{name: "uninstall", file: "10-calico.conflist", verb: "uninstall", before: installedThen(nil)},
	{name: "uninstall, two at once", file: "10-calico.conflist", verb: "uninstall", before: installedThen(nil), rival: true},
	{name: "uninstall beside a single", file: "10-bridge.conf", verb: "uninstall", before: installedThen(nil)},
	{name: "uninstall behind a link", file: "10-flannel.conflist", verb: "uninstall", before: func(t *testing.T, n *testNode) {
		n.BehindData()
		installedThen(nil)(t, n)
	}},
	{name: "uninstall from two lists", file: "10-calico.conflist", verb: "uninstall", before: installedThen(func(n *testNode) {
		n.WriteConf("05-a.conflist", `{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"ptp"}]}`)
		installedThen(nil)(n.t, n)
	})},
}

func installedThen(change func(*testNode)) func(*testing.T, *testNode) {
	return func(t *testing.T, n *testNode) {
		_, err := n.Installer().Install(t.Context())
		must(t, err)
		if change != nil {
			change(n)
		}
	}
}

// older is a node with another program and other node defaults.
func older(t *testing.T, n *testNode) {
	was := n.Entry
	var err error
	n.Entry, err = settings.NewEntry(map[string]string{"mode": contract.ModeTProxy})
	must(t, err)
	installedThen(nil)(t, n)
	n.Entry = was
	n.Upgrade("v2")
}

func litter(t *testing.T, n *testNode) {
	for _, dir := range []string{n.ConfDir, n.BinDir} {
		for _, name := range []string{"1", "2"} {
			must(t, os.WriteFile(filepath.Join(dir, disk.TempPrefix+name+disk.TempSuffix), []byte("{"), 0o600))
		}
	}
}
