package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/plugin/settings"
)

// crashes are the scenarios of TestKilled: what is to be done on a node with
// the named file, and what has happened there before.
var crashes = []struct {
	name, file, verb string
	before           func(*testing.T, *theNode)
	rival            bool // another installer waits for the lock, and goes on
}{
	{name: "install", file: "10-calico.conflist", verb: "install"},
	{name: "install, two at once", file: "10-calico.conflist", verb: "install", rival: true},
	{name: "install beside a single", file: "10-bridge.conf", verb: "install"},
	{name: "install beside a single, two at once", file: "10-bridge.conf", verb: "install", rival: true},
	{name: "install behind a link", file: "10-flannel.conflist", verb: "install", before: behindData},
	{name: "install over what a crash left", file: "10-aws.conflist", verb: "install", before: litter},
	{name: "upgrade", file: "10-flannel.conflist", verb: "install", before: older},
	{name: "upgrade beside a single", file: "10-bridge.json", verb: "install", before: older},
	{name: "upgrade, two at once", file: "10-flannel.conflist", verb: "install", before: older, rival: true},
	{name: "program changed", file: "10-kindnet.conflist", verb: "install", before: installedThen(func(n *theNode) {
		must(n.t, os.WriteFile(filepath.Join(n.binDir, contract.PluginType), []byte("x"), 0o755))
	})},
	{name: "list rewritten", file: "10-flannel.conflist", verb: "install", before: installedThen(func(n *theNode) {
		n.writeConf("10-flannel.conflist", n.configs["10-flannel.conflist"])
	})},
	{name: "entry edited", file: "10-kindnet.conflist", verb: "install", before: installedThen(func(n *theNode) {
		n.edit("10-kindnet.conflist", `"mode":"nat"`, `"mode":"tproxy"`)
	})},
	{name: "entry moved", file: "10-kindnet.conflist", verb: "install", before: installedThen(func(n *theNode) {
		n.writeConf("10-kindnet.conflist", `{"name":"n","cniVersion":"1.0.0","plugins":[`+string(n.entry)+`,{"type":"ptp"}]}`)
	})},
	{name: "entry twice", file: "10-kindnet.conflist", verb: "install", before: installedThen(func(n *theNode) {
		n.writeConf("10-kindnet.conflist", `{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"ptp"},`+string(n.entry)+","+string(n.entry)+`]}`)
	})},
	{name: "single rewritten", file: "10-bridge.conf", verb: "install", before: installedThen(func(n *theNode) {
		n.writeConf("10-bridge.conf", strings.Replace(n.configs["10-bridge.conf"], "10.", "11.", 1))
	})},
	{name: "single replaced by a list", file: "10-bridge.conf", verb: "install", before: installedThen(func(n *theNode) {
		must(n.t, os.Remove(filepath.Join(n.confDir, "10-bridge.conf")))
		n.writeConf("10-bridge.conflist", `{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"ptp"}]}`)
	})},
	{name: "uninstall", file: "10-calico.conflist", verb: "uninstall", before: installedThen(nil)},
	{name: "uninstall, two at once", file: "10-calico.conflist", verb: "uninstall", before: installedThen(nil), rival: true},
	{name: "uninstall beside a single", file: "10-bridge.conf", verb: "uninstall", before: installedThen(nil)},
	{name: "uninstall behind a link", file: "10-flannel.conflist", verb: "uninstall", before: func(t *testing.T, n *theNode) {
		behindData(t, n)
		installedThen(nil)(t, n)
	}},
	{name: "uninstall from two lists", file: "10-calico.conflist", verb: "uninstall", before: installedThen(func(n *theNode) {
		n.writeConf("05-a.conflist", `{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"ptp"}]}`)
		installedThen(nil)(n.t, n)
	})},
}

func installedThen(change func(*theNode)) func(*testing.T, *theNode) {
	return func(t *testing.T, n *theNode) {
		_, err := n.node().install(t.Context())
		must(t, err)
		if change != nil {
			change(n)
		}
	}
}

// older is a node with another program and other node defaults.
func older(t *testing.T, n *theNode) {
	was := n.entry
	var err error
	n.entry, err = settings.NewEntry(map[string]string{"mode": contract.ModeTProxy})
	must(t, err)
	installedThen(nil)(t, n)
	n.entry = was
	n.upgrade("v2")
}

// behindData puts the configurations behind a link that swaps them as a whole.
func behindData(t *testing.T, n *theNode) {
	must(t, os.Mkdir(filepath.Join(n.confDir, "..v1"), 0o755))
	must(t, os.Symlink("..v1", filepath.Join(n.confDir, "..data")))
	for name := range n.configs {
		path := filepath.Join(n.confDir, name)
		must(t, os.Rename(path, filepath.Join(n.confDir, "..v1", name)))
		must(t, os.Symlink("..data/"+name, path))
	}
}

func litter(t *testing.T, n *theNode) {
	for _, dir := range []string{n.confDir, n.binDir} {
		for _, name := range []string{"1", "2"} {
			must(t, os.WriteFile(filepath.Join(dir, tempPrefix+name+tempSuffix), []byte("{"), 0o600))
		}
	}
}
