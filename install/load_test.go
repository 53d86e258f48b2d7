package main

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

// tree is every file of a directory with its mode, owner and content.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	files := map[string]string{}
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // an installer took it away in this moment
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

// load is what a runtime takes from the directory, by containerd's rule: the
// first file in order, and an error if that is invalid.
func load(dir string) (*libcni.NetworkConfigList, error) {
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
		// A file that went between the two looks makes the runtime, which is
		// told of it, look again.
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

// types are the plugins that a runtime would run.
func types(t *testing.T, dir string) (list []string) {
	t.Helper()
	l, err := load(dir)
	must(t, err)
	for _, p := range l.Plugins {
		list = append(list, p.Network.Type)
	}
	return list
}

func isOurs(p *libcni.PluginConfig) bool { return p.Network.Type == contract.PluginType }
