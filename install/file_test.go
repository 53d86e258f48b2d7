package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestWriteOrder: the content is on the disk before its name is, the program
// before the list that names it, and the directory last.
func TestWriteOrder(t *testing.T) {
	n := newTestNode(t, "10-flannel.conflist")
	n.pad = 0
	n.upgrade("v1")
	node := n.node()
	var ops []string
	node.disk.before = func(op, path string) error {
		where := filepath.Base(path)
		if strings.HasSuffix(path, tempSuffix) {
			where = filepath.Base(filepath.Dir(path)) + "/temporary"
		}
		ops = append(ops, op+" "+where)
		return nil
	}
	_, err := node.install(context.Background())
	must(t, err)
	want := []string{
		"create bin", "write bin/temporary", "chmod bin/temporary", "fsync bin/temporary", "rename tproxy-cni", "fsync bin",
		"create net.d", "write net.d/temporary", "chmod net.d/temporary", "fsync net.d/temporary", "rename 10-flannel.conflist", "fsync net.d",
	}
	if diff := cmp.Diff(want, ops); diff != "" {
		t.Error(diff)
	}
	ops = nil
	_, err = node.uninstall(context.Background(), false)
	must(t, err)
	want = append(slices.Clone(want[6:]), "remove tproxy-cni", "fsync bin")
	if diff := cmp.Diff(want, ops); diff != "" {
		t.Error(diff)
	}
}

// TestLostRace: a list that its owner rewrites between our reading and our
// writing is read again, and not overwritten by what it was.
func TestLostRace(t *testing.T) {
	n := newTestNode(t, "10-flannel.conflist")
	node := n.node()
	newer := strings.Replace(n.configs["10-flannel.conflist"], "cbr0", "cbr1", 1)
	once := false
	node.disk.before = func(op, path string) error {
		if op == "fsync" && strings.HasPrefix(path, n.confDir) && !once {
			once = true
			n.writeConf("10-flannel.conflist", newer)
		}
		return nil
	}
	_, err := node.install(context.Background())
	must(t, err)
	if list, err := load(n.confDir); err != nil || list.Name != "cbr1" {
		t.Errorf("the owner's change is lost: %+v %v", list, err)
	}
	_, err = node.uninstall(context.Background(), false)
	must(t, err)
	if data, _ := os.ReadFile(filepath.Join(n.confDir, "10-flannel.conflist")); string(data) != newer {
		t.Errorf("after uninstall:\n%s", data)
	}
}
