package node_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"github.com/tproxy-cni/tproxy-cni/install/node"
	"github.com/tproxy-cni/tproxy-cni/install/node/nodetest"
	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/settings"
)

// A runtime starts a pod with the list of the day, and deletes it.
type runtime interface {
	add(id string) error
	del(id string) error
}

// crio deletes with the list that libcni has cached, as ocicni does.
type crio struct {
	t   *testing.T
	n   *nodetest.Node
	dir string // of the cache
	pod *lab.NS
}

func (r crio) cni() *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir([]string{r.n.BinDir}, r.dir, nil)
}

// conf is that of a pod; only echo asks for interception.
func (r crio) conf(id string) *libcni.RuntimeConf {
	c := &libcni.RuntimeConf{
		ContainerID: id, NetNS: r.pod.Path(), IfName: "eth0",
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "demo"}, {"K8S_POD_NAME", id}},
	}
	if id == "echo" {
		c.CapabilityArgs = map[string]any{"io.kubernetes.cri.pod-annotations": map[string]string{"tproxy-cni.io/mode": "nat"}}
	}
	return c
}

func (r crio) add(id string) error {
	list, err := nodetest.Load(r.n.ConfDir)
	must(r.t, err)
	_, err = r.cni().AddNetworkList(context.Background(), list, r.conf(id))
	return err
}

func (r crio) del(id string) error {
	today, err := nodetest.Load(r.n.ConfDir)
	must(r.t, err)
	data, rt, err := r.cni().GetNetworkListCachedConfig(today, r.conf(id))
	if err == nil && data == nil {
		err = errors.New("not cached")
	}
	must(r.t, err)
	list, err := libcni.NetworkConfFromBytes(data)
	must(r.t, err)
	return r.cni().DelNetworkList(context.Background(), list, rt)
}

// multus keeps the delegates of each pod in a file of its own, under the pod's id.
type multus struct{ crio }

type delegate struct {
	ConfList json.RawMessage // in the clear, fields that Multus does not know left out
	Name     string
	Bytes    []byte
}

func (r multus) add(id string) error {
	list, err := nodetest.Load(r.n.ConfDir)
	must(r.t, err)
	data, err := json.Marshal([]delegate{{ConfList: []byte(`{"name":"n"}`), Name: list.Name, Bytes: list.Bytes}})
	must(r.t, err)
	must(r.t, os.MkdirAll(filepath.Join(r.dir, "multus"), 0o700))
	must(r.t, os.WriteFile(filepath.Join(r.dir, "multus", id), data, 0o600))
	_, err = libcni.NewCNIConfigWithCacheDir([]string{r.n.BinDir}, r.t.TempDir(), nil).AddNetworkList(context.Background(), list, r.conf(id))
	return err
}

func (r multus) del(id string) error {
	path := filepath.Join(r.dir, "multus", id)
	data, err := os.ReadFile(path)
	must(r.t, err)
	var delegates []delegate
	must(r.t, json.Unmarshal(data, &delegates))
	list, err := libcni.NetworkConfFromBytes(delegates[0].Bytes)
	must(r.t, err)
	if err := r.cni().DelNetworkList(context.Background(), list, r.conf(id)); err != nil {
		return err
	}
	return os.Remove(path)
}

// TestPodsOutliveUninstall: each pod that was started with the plugin can be deleted
// after the uninstall, by runtimes that use the list of then, and the program goes only
// when none of them is left.
func TestPodsOutliveUninstall(t *testing.T) {
	lab.Need(t, "nft")
	program := filepath.Join(t.TempDir(), contract.PluginType)
	build := exec.Command("go", "build", "-o", program, "../../plugin")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for name, make := range map[string]func(crio) runtime{
		"CRI-O":  func(r crio) runtime { return r },
		"Multus": func(r crio) runtime { return multus{r} },
	} {
		for _, list := range []string{"10-kindnet.conflist", "10-bridge.conf"} {
			t.Run(name+" "+list, func(t *testing.T) {
				n := nodetest.New(t, list)
				n.Image = filepath.Dir(program)
				base(t, n)
				var err error
				n.Entry, err = settings.NewEntry(nil) // pods with an annotation
				must(t, err)
				n.Installed()
				cache := t.TempDir()
				ns := pod(t)
				r := make(crio{t, n, cache, ns})
				for _, id := range []string{"web", "echo"} {
					must(t, r.add(id))
				}
				if rules := ns.Run("nft", "list", "ruleset"); !strings.Contains(rules, contract.Table) {
					t.Errorf("after ADD: %s", rules)
				}

				n.Started() // installed long ago
				target := n.Installer()
				target.CacheDir = cache
				o, err := target.Uninstall(t.Context(), node.Keep)
				must(t, err)
				target = n.Installer() // the administrator's second step, in a process of its own
				target.CacheDir = cache
				for range 2 {
					if _, err := target.Uninstall(t.Context(), node.RemoveUnused); err == nil || !strings.Contains(err.Error(), "pods may still be starting with it") {
						t.Errorf("at once: %v", err)
					}
				}
				n.Started()
				if !strings.Contains(o.Left, "stays: 2 pods (") || !strings.Contains(o.Left, "web") {
					t.Errorf("left: %s", o.Left)
				}
				if slices.Contains(nodetest.Types(t, n.ConfDir), contract.PluginType) {
					t.Error("the entry is still there")
				}
				must(t, r.add("late")) // without us
				for i, id := range []string{"web", "late", "echo"} {
					_, err := target.Uninstall(t.Context(), node.RemoveUnused)
					want := []string{"stays until 2 pods (", "stays until 1 pod (", "stays until 1 pod ("}[i]
					if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "echo") {
						t.Errorf("before %s is deleted: %v, want %q", id, err, want)
					}
					var f node.Failure
					if !errors.As(err, &f) || f.Kind != node.Waiting {
						t.Errorf("%v is no reason to wait", err)
					}
					must(t, r.del(id))
				}
				o, err = target.Uninstall(t.Context(), node.RemoveUnused)
				if err != nil || o.Left != "" || n.CheckProgram() == nil {
					t.Errorf("left %q, program there: %t, %v", o.Left, n.CheckProgram() == nil, err)
				}
				if rules := ns.Run("nft", "list", "ruleset"); rules != "" {
					t.Errorf("after DEL: %s", rules)
				}
			})
		}
	}
}

// pod is the network namespace of a pod whose interface is there already.
func pod(t *testing.T) *lab.NS {
	t.Helper()
	ns, peer := lab.New(t, "cached"), lab.New(t, "cachedp")
	lab.Veth(ns, "eth0", peer, "eth0")
	ns.Up().Addr("eth0", "10.99.0.2/24")
	return ns
}

// base gives the node network plugins that do nothing.
func base(t *testing.T, n *nodetest.Node) {
	t.Helper()
	const script = `#!/bin/sh
[ "$CNI_COMMAND" = ADD ] && echo '{"cniVersion":"0.3.1","interfaces":[{"name":"eth0","sandbox":"'$CNI_NETNS'"}],"ips":[{"version":"4","interface":0,"address":"10.99.0.2/24"}]}'
exit 0
`
	for _, name := range []string{"bridge", "ptp", "portmap"} {
		must(t, os.WriteFile(filepath.Join(n.BinDir, name), []byte(script), 0o755))
	}
}

// TestNotKnownWhoNeedsIt: while it cannot be known whether a pod needs the program it
// stays, unless that is forced.
func TestNotKnownWhoNeedsIt(t *testing.T) {
	const named = `[{"Conf":{"type":"tproxy-cni"}}]`
	for name, tc := range map[string]struct {
		make func(t *testing.T, n *nodetest.Node, cache string)
		want string
	}{
		"no cache": {func(t *testing.T, _ *nodetest.Node, cache string) { must(t, os.Remove(cache)) }, "no such file or directory"},
		"a file that is too large": {func(t *testing.T, _ *nodetest.Node, cache string) {
			must(t, os.WriteFile(filepath.Join(cache, "x"), []byte("\n {"), 0o600))
			must(t, os.Truncate(filepath.Join(cache, "x"), 1<<30))
		}, "x is not a regular file of at most 4 MiB"},
		"too deep": {func(t *testing.T, _ *nodetest.Node, cache string) {
			must(t, os.MkdirAll(filepath.Join(cache, "1/2/3/4/5"), 0o700))
		}, "more directories"},
		"Multus' directory elsewhere": {func(t *testing.T, n *nodetest.Node, _ string) {
			n.WriteConf("00-multus.conf", `{"name":"m","cniVersion":"1.0.0","type":"multus-shim","cniDir":"/not/here/multus"}`)
		}, "/not/here/multus: no such file"},
		"a pod there": {func(t *testing.T, n *nodetest.Node, _ string) {
			dir := t.TempDir()
			must(t, os.WriteFile(filepath.Join(dir, "a1b2"), []byte(named), 0o600))
			n.WriteConf("00-multus.conf", fmt.Sprintf(`{"name":"m","cniVersion":"1.0.0","type":"multus-shim","cniDir":%q}`, dir))
		}, "stays until 1 pod (a1b2)"},
		"other files": {func(t *testing.T, _ *nodetest.Node, cache string) {
			must(t, os.MkdirAll(filepath.Join(cache, "networks/kindnet"), 0o700))
			must(t, os.WriteFile(filepath.Join(cache, "networks/kindnet/10.0.0.2"), []byte("a1b2\r\neth0"), 0o600))
			must(t, os.MkdirAll(filepath.Join(cache, "bin"), 0o700))
			must(t, os.WriteFile(filepath.Join(cache, "bin/big"), []byte("\x7fELF"), 0o700))
			must(t, os.Truncate(filepath.Join(cache, "bin/big"), 1<<30))
			must(t, os.WriteFile(filepath.Join(cache, "empty"), nil, 0o600))
			must(t, syscall.Mkfifo(filepath.Join(cache, "pipe"), 0o600))
			must(t, os.Symlink("/", filepath.Join(cache, "link")))
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			n := nodetest.New(t, "10-flannel.conflist")
			n.Installed()
			_, err := n.Installer().Uninstall(t.Context(), node.Keep)
			must(t, err)
			n.Started()
			target := n.Installer()
			target.CacheDir = t.TempDir()
			tc.make(t, n, target.CacheDir)
			ends(t, "uninstall", func() {
				o, err := target.Uninstall(t.Context(), node.RemoveUnused)
				if (err != nil) != (tc.want != "") || err != nil && (!strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "--force")) {
					t.Errorf("error is %v, want %q", err, tc.want)
				}
				if stays := n.CheckProgram() == nil; stays != (tc.want != "") || stays != (o.Left != "") {
					t.Errorf("the program is there: %t, left %q", stays, o.Left)
				}
				_, err = target.Uninstall(t.Context(), node.Remove)
				must(t, err)
				if left := n.Programs(); len(left) > 0 {
					t.Errorf("left: %v", left)
				}
			})
		})
	}
}
