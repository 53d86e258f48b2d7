package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/plugin/settings"
)

// Environment of a test binary that is to be tproxy-install.
const (
	envRun   = "INSTALL_TEST_RUN"   // any value
	envCrash = "INSTALL_TEST_CRASH" // the number of the file operation before which to die
	envTimer = "INSTALL_TEST_TIMER" // how long it may wait until it looks without having heard
)

func TestMain(m *testing.M) {
	if os.Getenv(envRun) != "" {
		os.Exit(run(world{
			args: os.Args[1:], getenv: os.Getenv, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
			before: dieAt(os.Getenv(envCrash)), timer: timer(os.Getenv(envTimer)),
		}))
	}
	os.Exit(m.Run())
}

// dieAt kills this process before its nth file operation, as the kernel's OOM
// killer would.
func dieAt(text string) func(op, path string) error {
	n, err := strconv.Atoi(text)
	if err != nil {
		return nil
	}
	return func(string, string) error {
		if n--; n == 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return nil
	}
}

func timer(text string) time.Duration {
	d, _ := time.ParseDuration(text)
	return d
}

// theNode is a node's two directories, and a folder with tproxy-install and
// the plugin beside it as the image has them.
type theNode struct {
	t                      *testing.T
	confDir, binDir, image string
	entry                  []byte
	elsewhere              string            // a file of the test's that is not the installer's
	pad                    int               // how large the plugin is
	configs                map[string]string // what the base CNI wrote
}

// pluginScript stands for tproxy-cni where only its file matters. It is large enough
// for several writes.
func pluginScript(version string, pad int) []byte {
	script := `#!/bin/sh
[ "$CNI_COMMAND" = VERSION ] || exit 1
echo '{"cniVersion":"1.0.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}'
exit
# ` + version + " "
	return append([]byte(script), bytes.Repeat([]byte("x"), pad)...)
}

// basePlugins are those that make pods' interfaces in the tests'
// configurations; only their names matter.
var basePlugins = []string{
	"a", "aws-cni", "bridge", "calico", "cilium-cni", "flannel", "multus", "multus-shim", "ptp", "weave-net",
}

// programs is what the bin dir has besides them.
func (n *theNode) programs() map[string]string {
	n.t.Helper()
	files := tree(n.t, n.binDir)
	for _, name := range basePlugins {
		delete(files, name)
	}
	return files
}

// newTestNode has the named files of testdata as the cluster's configurations.
func newTestNode(t *testing.T, names ...string) *theNode {
	t.Helper()
	dir := memory(t)
	n := &theNode{
		t: t, confDir: filepath.Join(dir, "net.d"), binDir: filepath.Join(dir, "bin"), image: filepath.Join(t.TempDir(), "image"),
		configs: map[string]string{}, pad: 200 << 10,
	}
	for _, d := range []string{n.confDir, n.binDir, n.image} {
		must(t, os.Mkdir(d, 0o755))
	}
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		must(t, err)
		n.writeConf(name, string(data))
	}
	for _, name := range basePlugins {
		must(t, os.WriteFile(filepath.Join(n.binDir, name), nil, 0o755))
	}
	n.upgrade("v1")
	var err error
	n.entry, err = settings.NewEntry(map[string]string{"mode": contract.ModeNAT})
	must(t, err)
	return n
}

// memory is a directory that fsync costs nothing in, where there is one in
// which programs run, because the tests write thousands of files.
func memory(t *testing.T) string {
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

func (n *theNode) writeConf(name, data string) {
	n.t.Helper()
	must(n.t, os.WriteFile(filepath.Join(n.confDir, name), []byte(data), 0o640))
	n.configs[name] = data
}

// edit is what somebody else does to a configuration.
func (n *theNode) edit(name, old, by string) {
	n.t.Helper()
	path := filepath.Join(n.confDir, name)
	data, err := os.ReadFile(path)
	must(n.t, err)
	text := strings.Replace(string(data), old, by, 1)
	if text == string(data) {
		n.t.Fatalf("%q is not in %s", old, data)
	}
	must(n.t, os.WriteFile(path, []byte(text), 0o600))
}

// upgrade puts another version of the plugin into the image.
func (n *theNode) upgrade(version string) {
	n.t.Helper()
	must(n.t, os.WriteFile(filepath.Join(n.image, contract.PluginType), pluginScript(version, n.pad), 0o755))
}

// node is the installer's view, for tests in this process.
func (n *theNode) node() *node {
	return &node{confDir: n.confDir, entry: n.entry, plugin: binary{
		source: filepath.Join(n.image, contract.PluginType), dir: n.binDir,
	}}
}

// program is tproxy-install in the image: this test binary under its name.
func (n *theNode) program() string {
	n.t.Helper()
	path := filepath.Join(n.image, "tproxy-install")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	test, err := os.Executable()
	must(n.t, err)
	if os.Link(test, path) != nil { // another file system
		data, err := os.ReadFile(test)
		must(n.t, err)
		must(n.t, os.WriteFile(path, data, 0o755))
	}
	return path
}

// command runs tproxy-install on this node, node defaults included.
func (n *theNode) command(verb string, args ...string) *exec.Cmd {
	n.t.Helper()
	args = append([]string{verb, "--cni-conf-dir", n.confDir, "--cni-bin-dir", n.binDir}, args...)
	if verb == "install" {
		args = append(args, "--mode", contract.ModeNAT)
	}
	cmd := exec.Command(n.program(), args...)
	cmd.Env = append(os.Environ(), envRun+"=1")
	return cmd
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
