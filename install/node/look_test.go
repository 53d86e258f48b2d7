package node_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/install/node"
	"github.com/tproxy-cni/tproxy-cni/install/node/nodetest"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestLook: what a node has, and what is wrong with it, without changing it.
func TestLook(t *testing.T) {
	for _, tt := range []struct {
		name    string
		file    string // the network's
		change  func(*nodetest.Node)
		list    string // that has the entry
		entry   string // the error about it
		program string // the error about the plugin
	}{
		{"a list", "10-flannel.conflist", nil, "10-flannel.conflist", "", ""},
		{"a single plugin", "10-bridge.conf", nil, "10-bridge-tproxy-cni.conflist", "", ""},
		{"no entry", "10-flannel.conflist", func(n *nodetest.Node) {
			n.WriteConf("10-flannel.conflist", n.Configs["10-flannel.conflist"])
		}, "10-flannel.conflist", "10-flannel.conflist: entry missing", ""},
		{"a file before the list", "10-flannel.conflist", func(n *nodetest.Node) {
			n.WriteConf("05-other.conf", `{"cniVersion":"1.0.0","name":"o","type":"bridge"}`)
		}, "05-other.conf", "05-other.conf has no entry of tproxy-cni", ""},
		{"no program", "10-flannel.conflist", func(n *nodetest.Node) {
			_ = os.Remove(filepath.Join(n.BinDir, contract.PluginType))
		}, "10-flannel.conflist", "", "no such file"},
		{"a program that fails", "10-flannel.conflist", func(n *nodetest.Node) {
			_ = os.WriteFile(filepath.Join(n.BinDir, contract.PluginType), []byte("#!/bin/sh\nexit 3\n"), 0o755)
		}, "10-flannel.conflist", "", "exit status 3"},
		{"a pipe for a program", "10-flannel.conflist", func(n *nodetest.Node) {
			_ = os.Remove(filepath.Join(n.BinDir, contract.PluginType))
			_ = os.Symlink("/dev/null", filepath.Join(n.BinDir, contract.PluginType))
		}, "10-flannel.conflist", "", "is not a file"},
		{"nothing", "10-flannel.conflist", func(n *nodetest.Node) {
			_ = os.Remove(filepath.Join(n.ConfDir, "10-flannel.conflist"))
		}, "", "no network configuration", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := nodetest.New(t, tt.file)
			n.Installed()
			if tt.change != nil {
				tt.change(n)
			}
			before := n.Files()
			s := node.Look(t.Context(), n.ConfDir, n.BinDir, "")
			says := func(what string, err error, want string) {
				if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
					t.Errorf("%s: error is %v, want %q", what, err, want)
				}
			}
			says("entry", s.EntryErr, tt.entry)
			says("plugin", s.BinaryErr, tt.program)
			if s.List != tt.list || (s.EntryErr == nil) != (string(s.Entry) == string(n.Entry)) {
				t.Errorf("%+v", s)
			}
			if tt.program == "" && s.Version != "v1 go1.26" {
				t.Errorf("version %q", s.Version)
			}
			if after := n.Files(); len(after) != len(before) || len(after[0]) != len(before[0]) {
				t.Errorf("changed: %v", after)
			}
		})
	}
}
