package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/install/conflist"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/lab"
)

// configurations are those of testdata.
func configurations(t *testing.T) (names []string) {
	t.Helper()
	for _, suffix := range []string{".conflist", ".conf", ".json"} {
		paths, err := filepath.Glob("testdata/*" + suffix)
		must(t, err)
		for _, p := range paths {
			names = append(names, filepath.Base(p))
		}
	}
	return names
}

// TestRoundTrip: on every kind of node our entry comes last, twice is as once,
// and uninstall leaves the node byte for byte as it was.
func TestRoundTrip(t *testing.T) {
	ctx := context.Background()
	for _, name := range configurations(t) {
		t.Run(name, func(t *testing.T) {
			n := newTestNode(t, name)
			if os.Geteuid() == 0 {
				must(t, os.Chown(filepath.Join(n.confDir, name), 4711, 4712))
			}
			before := tree(t, n.confDir)
			base := types(t, n.confDir)
			list, err := load(n.confDir)
			must(t, err)
			o, err := n.node().install(ctx)
			if !slices.Contains([]string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"}, list.CNIVersion) {
				if err == nil || !strings.Contains(err.Error(), "cniVersion") {
					t.Errorf("a list of version %q, in which every pod would fail: %v", list.CNIVersion, err)
				}
				if diff := cmp.Diff(before, tree(t, n.confDir)); diff != "" {
					t.Errorf("changed:\n%s", diff)
				}
				return
			}
			must(t, err)
			if got := types(t, n.confDir); !slices.Equal(got, append(base, contract.PluginType)) {
				t.Errorf("plugins are %q, were %q", got, base)
			}
			list, err = load(n.confDir)
			must(t, err)
			if last := list.Plugins[len(list.Plugins)-1]; !conflist.Equal(last.Bytes, n.entry) {
				t.Errorf("entry is %s, want %s", last.Bytes, n.entry)
			}
			if want := []string{"binary missing", "entry missing"}; !slices.Equal(o.patches, want) {
				t.Errorf("patches %q, want %q", o.patches, want)
			}
			installed := tree(t, n.confDir)
			for file, text := range installed { // ours, too, has the owner and the mode of the one it is made of
				meta, _, _ := strings.Cut(text, "\n")
				if was, _, _ := strings.Cut(before[name], "\n"); meta != was {
					t.Errorf("%s is %s, want %s", file, meta, was)
				}
			}
			o, err = n.node().install(ctx)
			if diff := cmp.Diff(installed, tree(t, n.confDir)); diff != "" || len(o.patches) > 0 || err != nil {
				t.Errorf("installed twice: %q %v\n%s", o.patches, err, diff)
			}
			if _, err = n.node().uninstall(ctx, false); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, tree(t, n.confDir)); diff != "" {
				t.Errorf("after uninstall (-before +after):\n%s", diff)
			}
			if left := n.programs(); len(left) > 0 {
				t.Errorf("left in the bin dir: %v", left)
			}
			if o, err = n.node().uninstall(ctx, false); err != nil || len(o.patches) > 0 {
				t.Errorf("uninstalled twice: %q %v", o.patches, err)
			}
		})
	}
}

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

// TestOldBinaryStays: a program that does not run takes no other's place.
func TestOldBinaryStays(t *testing.T) {
	n := newTestNode(t, "10-flannel.conflist")
	_, err := n.node().install(context.Background())
	must(t, err)
	before := tree(t, n.binDir)
	must(t, os.WriteFile(filepath.Join(n.image, "tproxy-cni"), []byte("#!/bin/sh\nexit 1\n"), 0o755))
	if _, err = n.node().install(context.Background()); err == nil {
		t.Error("no error")
	}
	if diff := cmp.Diff(before, tree(t, n.binDir)); diff != "" {
		t.Errorf("changed:\n%s", diff)
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
		"00-multus.conf":     delegate,
		"00-multus.json":     delegate,
		"00-multus.conflist": `{"name":"m","cniVersion":"1.0.0","plugins":[` + delegate + `]}`,
		"10-alone.conflist":  `{"name":"m","cniVersion":"1.0.0","plugins":[{"type":"tproxy-cni"}]}`,
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

// TestMorePluginDirs: where the runtime has several, the network's own plugin
// may be in another; and it may be a link that leads nowhere in a container.
func TestMorePluginDirs(t *testing.T) {
	for name, change := range map[string]func(*theNode, *node){
		"several": func(n *theNode, node *node) { node.morePluginDirs = true },
		"link": func(n *theNode, _ *node) {
			must(t, os.Symlink("/not/here/flannel", filepath.Join(n.binDir, "flannel")))
		},
	} {
		n := newTestNode(t, "10-flannel.conflist")
		must(t, os.Remove(filepath.Join(n.binDir, "flannel")))
		node := n.node()
		change(n, node)
		if _, err := node.install(context.Background()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDeleted: a directory that was deleted under a mount, here under an open
// file, makes the kubelet start a new container, which mounts the new one.
func TestDeleted(t *testing.T) {
	for _, which := range []string{"conf", "bin"} {
		n := newTestNode(t, "10-flannel.conflist")
		node := n.node()
		dir := map[string]*string{"conf": &node.confDir, "bin": &node.plugin.dir}[which]
		f, err := os.Open(*dir)
		must(t, err)
		defer f.Close()
		must(t, os.RemoveAll(*dir))
		must(t, os.Mkdir(*dir, 0o755))
		*dir = fmt.Sprintf("/proc/self/fd/%d", f.Fd())
		s := newStatus(contract.ModeNone)
		_, err = node.install(context.Background())
		s.set(outcome{}, "", err)
		answer := httptest.NewRecorder()
		s.handler(slog.Default()).ServeHTTP(answer, httptest.NewRequest("GET", "/healthz", nil))
		if want := *dir + " was deleted on the node"; answer.Code != 503 || !strings.Contains(answer.Body.String(), want) {
			t.Errorf("%s: %v, /healthz %d %s", which, err, answer.Code, answer.Body)
		}
	}
}

// TestOwnerLost: without CAP_CHOWN the list is written nevertheless, and it is
// said whose it was.
func TestOwnerLost(t *testing.T) {
	lab.Need(t)
	n := newTestNode(t, "10-flannel.conflist")
	must(t, os.Chown(filepath.Join(n.confDir, "10-flannel.conflist"), 4711, 4712))
	node := n.node()
	node.disk.before = func(op, _ string) error {
		if op == "chown" {
			return syscall.EPERM
		}
		return nil
	}
	o, err := node.install(context.Background())
	must(t, err)
	if want := "10-flannel.conflist was 4711:4712's and is 0:0's now: the installer lacks CAP_CHOWN"; !slices.Equal(o.notes, []string{want}) {
		t.Errorf("notes %q, want %q", o.notes, want)
	}
}
