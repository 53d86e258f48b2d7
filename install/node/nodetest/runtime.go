package nodetest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// Tree is every file of a directory with its mode, owner and content, by name.
func Tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	files := map[string]string{}
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // an installer has just removed it
		}
		must(t, err)
		var data []byte
		if info.Mode().IsRegular() {
			data, err = os.ReadFile(filepath.Join(dir, e.Name()))
			must(t, err)
		}
		st := info.Sys().(*syscall.Stat_t)
		files[e.Name()] = fmt.Sprintf("%v %d:%d\n%s", info.Mode(), st.Uid, st.Gid, data)
	}
	return files
}

// Load returns the configuration that a runtime takes from the directory, by
// containerd's rule: the first file in order, and an error if that is invalid.
func Load(dir string) (*libcni.NetworkConfigList, error) {
	for {
		files, err := libcni.ConfFiles(dir, []string{".conf", ".conflist", ".json"})
		if err != nil || len(files) == 0 {
			return nil, fmt.Errorf("no configuration (%v)", err)
		}
		var list *libcni.NetworkConfigList
		if strings.HasSuffix(files[0], ".conflist") {
			list, err = libcni.NetworkConfFromFile(files[0])
		} else {
			list, err = loadSingle(files[0])
		}
		// If the file was removed between the two looks, the runtime gets an
		// event and looks again.
		if _, gone := os.Lstat(files[0]); gone == nil || err == nil {
			return list, err
		}
	}
}

func loadSingle(path string) (*libcni.NetworkConfigList, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	conf, err := libcni.NetworkPluginConfFromBytes(data)
	if err != nil {
		return nil, err
	}
	//lint:ignore SA1019 runtimes do so as long as there are such files
	return libcni.ConfListFromConf(conf)
}

// Types are the plugins that a runtime would run, in order.
func Types(t testing.TB, dir string) (list []string) {
	t.Helper()
	l, err := Load(dir)
	must(t, err)
	for _, p := range l.Plugins {
		list = append(list, p.Network.Type)
	}
	return list
}

// IsPlugin reports whether p is the plugin's entry.
func IsPlugin(p *libcni.PluginConfig) bool { return p.Network.Type == contract.PluginType }

// Names are the names in a directory.
func Names(t testing.TB, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// Programs is what the node's directory of plugins has besides the network's.
func (n *Node) Programs() map[string]string {
	n.T.Helper()
	files := Tree(n.T, n.BinDir)
	for _, name := range basePlugins {
		delete(files, name)
	}
	return files
}

// Files are both directories, and what is behind links in the first.
func (n *Node) Files() (dirs []map[string]string) {
	n.T.Helper()
	dirs = append(dirs, Tree(n.T, n.ConfDir), Tree(n.T, n.BinDir))
	if data := filepath.Join(n.ConfDir, "..data"); isDir(data) {
		dirs = append(dirs, Tree(n.T, data))
	}
	return dirs
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// CheckProgram returns an error unless the node has the image's plugin.
func (n *Node) CheckProgram() error {
	info, err := os.Stat(filepath.Join(n.BinDir, contract.PluginType))
	if err == nil && (info.Mode().Perm() != 0o755 || info.Size() < int64(n.Pad)) {
		err = errors.New(info.Mode().String())
	}
	return err
}
