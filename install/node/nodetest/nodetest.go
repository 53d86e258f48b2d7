// Package nodetest makes a node's directories for tests of the installer: CNI
// configurations as installers of other plugins write them, and a plugin.
package nodetest

import (
	"bytes"
	"embed"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tproxy-cni/tproxy-cni/install/node"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/settings"
)

// testdata/README.md says where each configuration comes from.
//
//go:embed testdata/*.conf testdata/*.conflist testdata/*.json
var testdata embed.FS

// Configs are the configurations whose names end in one of suffixes, by name.
func Configs(t testing.TB, suffixes ...string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for _, suffix := range suffixes {
		paths, err := fs.Glob(testdata, "testdata/*"+suffix)
		if err != nil || len(paths) == 0 {
			t.Fatalf("no configurations *%s: %v", suffix, err)
		}
		for _, p := range paths {
			data, err := testdata.ReadFile(p)
			must(t, err)
			files[filepath.Base(p)] = data
		}
	}
	return files
}

// Node is a node's two directories, and a directory with the plugin as the
// installer's image has it.
type Node struct {
	T                      testing.TB
	ConfDir, BinDir, Image string
	Entry                  []byte
	Pad                    int               // bytes that Upgrade adds to the plugin
	Configs                map[string]string // what the owners of the other files wrote, by name
}

// ValidList is a configuration.
const ValidList = `{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"bridge"}]}`

// pluginScript stands for tproxy-cni where only its file matters. It is large
// enough for several writes.
func pluginScript(version string, pad int) []byte {
	script := `#!/bin/sh
[ "$1" = --version ] && { echo "tproxy-cni ` + version + ` go1.26"; exit; }
[ "$CNI_COMMAND" = VERSION ] || exit 1
echo '{"cniVersion":"1.0.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}'
exit
# ` + version + " "
	return append([]byte(script), bytes.Repeat([]byte("x"), pad)...)
}

// basePlugins make pods' interfaces in the tests' configurations; only their
// names matter.
var basePlugins = []string{
	"a", "antrea", "aws-cni", "azure-vnet", "bridge", "calico", "cilium-cni", "flannel", "multus", "multus-shim", "ptp", "weave-net",
}

// New returns a node that has the named files of testdata as its configurations.
func New(t testing.TB, names ...string) *Node {
	t.Helper()
	dir := memory(t)
	n := &Node{
		T: t, ConfDir: filepath.Join(dir, "net.d"), BinDir: filepath.Join(dir, "bin"), Image: filepath.Join(t.TempDir(), "image"),
		Configs: map[string]string{}, Pad: 200 << 10,
	}
	for _, d := range []string{n.ConfDir, n.BinDir, n.Image} {
		must(t, os.Mkdir(d, 0o755))
	}
	for _, name := range names {
		data, err := testdata.ReadFile("testdata/" + name)
		must(t, err)
		n.WriteConf(name, string(data))
	}
	for _, name := range basePlugins {
		must(t, os.WriteFile(filepath.Join(n.BinDir, name), nil, 0o755))
	}
	n.Upgrade("v1")
	var err error
	n.Entry, err = settings.NewEntry(map[string]string{"mode": contract.ModeNAT})
	must(t, err)
	return n
}

// memory is a directory where fsync costs nothing, if there is one in which
// programs run, because the tests write thousands of files.
func memory(t testing.TB) string {
	t.Helper()
	if !runsInMemory() {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(inMemory, "tproxy-install-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

const inMemory = "/dev/shm"

var runsInMemory = sync.OnceValue(func() bool {
	dir, err := os.MkdirTemp(inMemory, "tproxy-install-")
	if err != nil {
		return false
	}
	defer os.RemoveAll(dir)
	probe := filepath.Join(dir, "probe")
	return os.WriteFile(probe, []byte("#!/bin/sh\n"), 0o755) == nil && exec.Command(probe).Run() == nil
})

// Installer is what an installer of this process works on.
func (n *Node) Installer() *node.Node {
	return &node.Node{ConfDir: n.ConfDir, Entry: n.Entry, Binary: node.Binary{
		Source: filepath.Join(n.Image, contract.PluginType), Dir: n.BinDir,
	}}
}

// Installed installs the plugin.
func (n *Node) Installed() {
	n.T.Helper()
	_, err := n.Installer().Install(n.T.Context())
	must(n.T, err)
}

// Started lets the time pass in which a pod may be starting with a list of before: the
// program is older than that.
func (n *Node) Started() {
	n.T.Helper()
	old := time.Now().Add(-2 * time.Minute)
	must(n.T, os.Chtimes(filepath.Join(n.BinDir, contract.PluginType), old, old))
}

// WriteConf writes a configuration as its owner does.
func (n *Node) WriteConf(name, data string) {
	n.T.Helper()
	must(n.T, os.WriteFile(filepath.Join(n.ConfDir, name), []byte(data), 0o640))
	n.Configs[name] = data
}

// WriteOldConf writes a configuration that is not just being written.
func (n *Node) WriteOldConf(name, data string) {
	n.T.Helper()
	n.WriteConf(name, data)
	must(n.T, os.Chtimes(filepath.Join(n.ConfDir, name), time.Unix(0, 0), time.Unix(0, 0)))
}

// Edit replaces text in a configuration, as another program would.
func (n *Node) Edit(name, old, by string) {
	n.T.Helper()
	path := filepath.Join(n.ConfDir, name)
	data, err := os.ReadFile(path)
	must(n.T, err)
	text := strings.Replace(string(data), old, by, 1)
	if text == string(data) {
		n.T.Fatalf("%q is not in %s", old, data)
	}
	must(n.T, os.WriteFile(path, []byte(text), 0o600))
}

// BehindData moves the configurations behind a link that swaps them as a whole.
func (n *Node) BehindData() {
	n.T.Helper()
	must(n.T, os.Mkdir(filepath.Join(n.ConfDir, "..v1"), 0o755))
	must(n.T, os.Symlink("..v1", filepath.Join(n.ConfDir, "..data")))
	for name := range n.Configs {
		path := filepath.Join(n.ConfDir, name)
		must(n.T, os.Rename(path, filepath.Join(n.ConfDir, "..v1", name)))
		must(n.T, os.Symlink("..data/"+name, path))
	}
}

// Upgrade puts another version of the plugin into the image.
func (n *Node) Upgrade(version string) {
	n.T.Helper()
	must(n.T, os.WriteFile(filepath.Join(n.Image, contract.PluginType), pluginScript(version, n.Pad), 0o755))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
