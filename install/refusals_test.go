package main

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
)

// TestRefusals: what cannot be done is said, by name, and nothing is guessed.
func TestRefusals(t *testing.T) {
	valid := `{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"bridge"}]}`
	for _, tc := range []struct {
		name   string
		make   func(t *testing.T, n *theNode)
		kind   string
		reason string
	}{
		{"empty directory", func(*testing.T, *theNode) {}, atWaiting, "no network configuration"},
		{
			"half a list", func(_ *testing.T, n *theNode) {
				n.writeConf("10-a.conflist", valid[:40])
				n.writeConf("20-b.conflist", valid)
			},
			atWaiting, "10-a.conflist is invalid (error parsing configuration list: unexpected end of JSON input): waiting for whoever is writing it",
		},
		{"only our entry", func(_ *testing.T, n *theNode) {
			n.writeConf("10-a.conflist", `{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"tproxy-cni"}]}`)
		}, atWaiting, "10-a.conflist: the list holds no plugin but tproxy-cni"},
		{"plugins twice", func(_ *testing.T, n *theNode) {
			n.writeConf("10-a.conflist", `{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"a"}],"plugins":[{"type":"b"}]}`)
		}, atWaiting, `the key "plugins" is there twice`},
		{"too old", func(_ *testing.T, n *theNode) {
			n.writeConf("10-a.conf", `{"name":"n","cniVersion":"0.2.0","type":"a"}`)
		}, atWaiting, "10-a.conf has cniVersion 0.2.0, the plugin speaks 0.3.1"},
		{"another bin dir", func(t *testing.T, n *theNode) {
			n.writeConf("10-a.conflist", valid)
			must(t, os.Remove(filepath.Join(n.binDir, "bridge")))
		}, atWaiting, `10-a.conflist: its plugin "bridge" is not in `},
		{"another bin dir, single", func(t *testing.T, n *theNode) {
			n.writeConf("10-a.conf", `{"name":"n","cniVersion":"1.0.0","type":"elsewhere"}`)
		}, atWaiting, `10-a.conf: its plugin "elsewhere" is not in `},
		{"no directory", func(t *testing.T, n *theNode) { must(t, os.Remove(n.confDir)) }, atConfDir, "no such file or directory"},
		{"no bin dir", func(t *testing.T, n *theNode) { must(t, os.RemoveAll(n.binDir)) }, atBinary, "no such file or directory"},
		{
			"directory for the binary", func(t *testing.T, n *theNode) { must(t, os.Mkdir(filepath.Join(n.binDir, "tproxy-cni"), 0o755)) },
			atBinary, "is a directory: remove it",
		},
		{"directory for the list", func(t *testing.T, n *theNode) {
			n.writeConf("10-a.conf", `{"name":"n","cniVersion":"1.0.0","type":"a"}`)
			must(t, os.Mkdir(filepath.Join(n.confDir, "10-a-tproxy-cni.conflist"), 0o755))
		}, atConfDir, "is no regular file"},
		{"pipe", func(t *testing.T, n *theNode) {
			must(t, syscall.Mkfifo(filepath.Join(n.confDir, "10-a.conflist"), 0o600))
		}, atWaiting, "is no regular file"},
		{"huge", func(_ *testing.T, n *theNode) {
			n.writeConf("10-a.conflist", valid+strings.Repeat(" ", 1<<20))
		}, atWaiting, "is no regular file of at most 1 MiB"},
		{"dangling link", func(t *testing.T, n *theNode) {
			must(t, os.Symlink("/not/here", filepath.Join(n.confDir, "10-a.conflist")))
			n.writeConf("20-b.conflist", valid)
		}, atWaiting, "10-a.conflist cannot be read here, the runtime may"},
		{"binary of another machine", func(t *testing.T, n *theNode) {
			n.writeConf("10-a.conflist", valid)
			must(t, os.WriteFile(filepath.Join(n.image, "tproxy-cni"), []byte("\x7fELF nonsense"), 0o755))
		}, atBinary, "exec format error"},
		{
			"no plugin in the image", func(t *testing.T, n *theNode) { must(t, os.Remove(filepath.Join(n.image, "tproxy-cni"))) },
			atBinary, "read the plugin to install",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := newTestNode(t)
			tc.make(t, n)
			var before map[string]string
			if tc.name != "no directory" {
				before = tree(t, n.confDir)
			}
			_, err := n.node().install(context.Background())
			var tr trouble
			if !errors.As(err, &tr) || tr.kind != tc.kind || !strings.Contains(err.Error(), tc.reason) {
				t.Errorf("error is %v (%v)\nwant %s (%s)", err, tr.kind, tc.reason, tc.kind)
			}
			if before != nil {
				if diff := cmp.Diff(before, tree(t, n.confDir)); diff != "" {
					t.Errorf("changed:\n%s", diff)
				}
			}
		})
	}
}

// TestOldInvalidFile: a file that stays invalid stops only containerd, whose
// node is down anyway; CRI-O passes over it, and so do we, and say so.
func TestOldInvalidFile(t *testing.T) {
	n := newTestNode(t, "10-flannel.conflist")
	n.writeConf("05-broken.conflist", "{")
	for _, when := range []time.Time{time.Unix(0, 0), time.Now().Add(24 * time.Hour)} { // or a clock that was set back
		must(t, os.Chtimes(filepath.Join(n.confDir, "05-broken.conflist"), when, when))
		o, err := n.node().install(context.Background())
		must(t, err)
		if o.list != "10-flannel.conflist" || len(o.notes) != 1 || !strings.Contains(o.notes[0], "05-broken.conflist is invalid") {
			t.Errorf("list %s, notes %q", o.list, o.notes)
		}
	}
}
