package node_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/install/node"
	"github.com/tproxy-cni/tproxy-cni/install/node/nodetest"
)

// TestRefusals: each obstacle has an error that names it, and nothing is changed.
func TestRefusals(t *testing.T) {
	valid := `{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"bridge"}]}`
	for _, tc := range []struct {
		name   string
		make   func(t *testing.T, n *nodetest.Node)
		kind   string
		reason string
	}{
		{"empty directory", func(*testing.T, *nodetest.Node) {}, node.Waiting, "no network configuration"},
		{
			"half a list", func(_ *testing.T, n *nodetest.Node) {
				n.WriteConf("10-a.conflist", valid[:40])
				n.WriteConf("20-b.conflist", valid)
			},
			node.Waiting, "10-a.conflist is invalid (error parsing configuration list: unexpected end of JSON input): waiting until it is completely written",
		},
		{"only the entry", func(_ *testing.T, n *nodetest.Node) {
			n.WriteConf("10-a.conflist", `{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"tproxy-cni"}]}`)
		}, node.Waiting, "10-a.conflist: the list holds no plugin except tproxy-cni"},
		{"plugins twice", func(_ *testing.T, n *nodetest.Node) {
			n.WriteConf("10-a.conflist", `{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"a"}],"plugins":[{"type":"b"}]}`)
		}, node.Waiting, `the key "plugins" appears twice`},
		{"too old", func(_ *testing.T, n *nodetest.Node) {
			n.WriteConf("10-a.conf", `{"name":"n","cniVersion":"0.2.0","type":"a"}`)
		}, node.Waiting, "10-a.conf has cniVersion 0.2.0, the plugin supports 0.3.0"},
		{"another bin dir", func(t *testing.T, n *nodetest.Node) {
			n.WriteConf("10-a.conflist", valid)
			must(t, os.Remove(filepath.Join(n.BinDir, "bridge")))
		}, node.Waiting, `10-a.conflist: its plugin "bridge" is not in `},
		{"another bin dir, single", func(t *testing.T, n *nodetest.Node) {
			n.WriteConf("10-a.conf", `{"name":"n","cniVersion":"1.0.0","type":"elsewhere"}`)
		}, node.Waiting, `10-a.conf: its plugin "elsewhere" is not in `},
		{"no directory", func(t *testing.T, n *nodetest.Node) { must(t, os.Remove(n.ConfDir)) }, node.FailedConfDir, "no such file or directory"},
		{"no bin dir", func(t *testing.T, n *nodetest.Node) { must(t, os.RemoveAll(n.BinDir)) }, node.FailedBinary, "no such file or directory"},
		{
			"directory for the binary", func(t *testing.T, n *nodetest.Node) { must(t, os.Mkdir(filepath.Join(n.BinDir, "tproxy-cni"), 0o755)) },
			node.FailedBinary, "is a directory: remove it",
		},
		{"directory for the list", func(t *testing.T, n *nodetest.Node) {
			n.WriteConf("10-a.conf", `{"name":"n","cniVersion":"1.0.0","type":"a"}`)
			must(t, os.Mkdir(filepath.Join(n.ConfDir, "10-a-tproxy-cni.conflist"), 0o755))
		}, node.FailedConfDir, "is not a regular file"},
		{"pipe", func(t *testing.T, n *nodetest.Node) {
			must(t, syscall.Mkfifo(filepath.Join(n.ConfDir, "10-a.conflist"), 0o600))
		}, node.Waiting, "is not a regular file"},
		{"huge", func(_ *testing.T, n *nodetest.Node) {
			n.WriteConf("10-a.conflist", valid+strings.Repeat(" ", 1<<20))
		}, node.Waiting, "is not a regular file of at most 1 MiB"},
		{"dangling link", func(t *testing.T, n *nodetest.Node) {
			must(t, os.Symlink("/not/here", filepath.Join(n.ConfDir, "10-a.conflist")))
			n.WriteConf("20-b.conflist", valid)
		}, node.Waiting, "10-a.conflist cannot be read by the installer (the runtime may be able to)"},
		{"binary of another machine", func(t *testing.T, n *nodetest.Node) {
			n.WriteConf("10-a.conflist", valid)
			must(t, os.WriteFile(filepath.Join(n.Image, "tproxy-cni"), []byte("\x7fELF nonsense"), 0o755))
		}, node.FailedBinary, "exec format error"},
		{
			"no plugin in the image", func(t *testing.T, n *nodetest.Node) { must(t, os.Remove(filepath.Join(n.Image, "tproxy-cni"))) },
			node.FailedBinary, "read the plugin to install",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := nodetest.New(t)
			tc.make(t, n)
			var before map[string]string
			if tc.name != "no directory" {
				before = nodetest.Tree(t, n.ConfDir)
			}
			_, err := n.Installer().Install(context.Background())
			var tr node.Failure
			if !errors.As(err, &tr) || tr.Kind != tc.kind || !strings.Contains(err.Error(), tc.reason) {
				t.Errorf("error is %v (%v)\nwant %s (%s)", err, tr.Kind, tc.reason, tc.kind)
			}
			if before != nil {
				if diff := cmp.Diff(before, nodetest.Tree(t, n.ConfDir)); diff != "" {
					t.Errorf("changed:\n%s", diff)
				}
			}
		})
	}
}

// TestOldInvalidFile: a file that stays invalid stops only containerd, whose node
// is down anyway; CRI-O skips it, and so does the installer, with a note.
func TestOldInvalidFile(t *testing.T) {
	n := nodetest.New(t, "10-flannel.conflist")
	n.WriteConf("05-broken.conflist", "{")
	for _, when := range []time.Time{time.Unix(0, 0), time.Now().Add(24 * time.Hour)} { // or a clock that was set back
		must(t, os.Chtimes(filepath.Join(n.ConfDir, "05-broken.conflist"), when, when))
		o, err := n.Installer().Install(context.Background())
		must(t, err)
		if o.List != "10-flannel.conflist" || len(o.Notes) != 1 || !strings.Contains(o.Notes[0], "05-broken.conflist is invalid") {
			t.Errorf("list %s, notes %q", o.List, o.Notes)
		}
	}
}
