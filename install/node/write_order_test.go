package node_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/install/disk"
	"github.com/tproxy-cni/tproxy-cni/install/node"
	"github.com/tproxy-cni/tproxy-cni/install/node/nodetest"
)

// TestWriteOrder: the content is synced before the rename, the program before the
// list that names it, and the directory last.
func TestWriteOrder(t *testing.T) {
	n := nodetest.New(t, "10-flannel.conflist")
	n.Pad = 0
	n.Upgrade("v1")
	target := n.Installer()
	var ops []string
	target.Disk.Before = func(op, path string) error {
		where := filepath.Base(path)
		if strings.HasSuffix(path, disk.TempSuffix) {
			where = filepath.Base(filepath.Dir(path)) + "/temporary"
		}
		ops = append(ops, op+" "+where)
		return nil
	}
	_, err := target.Install(context.Background())
	must(t, err)
	want := []string{
		"create bin", "write bin/temporary", "chmod bin/temporary", "fsync bin/temporary", "rename tproxy-cni", "fsync bin",
		"create net.d", "write net.d/temporary", "chmod net.d/temporary", "fsync net.d/temporary", "rename 10-flannel.conflist", "fsync net.d",
	}
	if diff := cmp.Diff(want, ops); diff != "" {
		t.Error(diff)
	}
	ops = nil
	_, err = target.Uninstall(context.Background(), node.Remove)
	must(t, err)
	want = append(slices.Clone(want[6:]), "remove tproxy-cni", "fsync bin")
	if diff := cmp.Diff(want, ops); diff != "" {
		t.Error(diff)
	}
}

// TestSettingsOrder: the entry never has a setting that the program on the node may not
// know. An upgrade brings the program first, a rollback the entry.
func TestSettingsOrder(t *testing.T) {
	for _, name := range []string{"10-flannel.conflist", "10-bridge.conf"} {
		t.Run(name, func(t *testing.T) {
			n := nodetest.New(t, name)
			n.Pad = 0
			entry := n.Entry
			later := []byte(strings.Replace(string(entry), "{", `{"ofLater": true,`, 1))
			for _, step := range []struct {
				version string
				entry   []byte
				want    []string
			}{
				{"v1", entry, []string{"tproxy-cni", "conflist"}},
				{"v2", later, []string{"tproxy-cni", "conflist"}},
				{"v1", entry, []string{"conflist", "tproxy-cni"}},
				{"v2", entry, []string{"tproxy-cni"}},
				{"v2", later, []string{"conflist"}},
				{"v2", entry, []string{"conflist"}},
			} {
				n.Upgrade(step.version)
				target := n.Installer()
				target.Entry = step.entry
				var renamed []string
				target.Disk.Before = func(op, path string) error {
					if op == "rename" {
						renamed = append(renamed, strings.TrimPrefix(filepath.Ext(path), "."))
						if filepath.Base(path) == "tproxy-cni" {
							renamed[len(renamed)-1] = "tproxy-cni"
						}
					}
					return nil
				}
				_, err := target.Install(context.Background())
				must(t, err)
				if diff := cmp.Diff(step.want, renamed); diff != "" {
					t.Errorf("%s with %s: %s", step.version, step.entry, diff)
				}
			}
		})
	}
}

// TestLostRace: a list that its owner rewrites between the installer's read and
// write is read again, and the owner's change is not lost.
func TestLostRace(t *testing.T) {
	n := nodetest.New(t, "10-flannel.conflist")
	target := n.Installer()
	newer := strings.Replace(n.Configs["10-flannel.conflist"], "cbr0", "cbr1", 1)
	once := false
	target.Disk.Before = func(op, path string) error {
		if op == "fsync" && strings.HasPrefix(path, n.ConfDir) && !once {
			once = true
			n.WriteConf("10-flannel.conflist", newer)
		}
		return nil
	}
	_, err := target.Install(context.Background())
	must(t, err)
	if list, err := nodetest.Load(n.ConfDir); err != nil || list.Name != "cbr1" {
		t.Errorf("the owner's change is lost: %+v %v", list, err)
	}
	_, err = target.Uninstall(context.Background(), node.Remove)
	must(t, err)
	if data, _ := os.ReadFile(filepath.Join(n.ConfDir, "10-flannel.conflist")); string(data) != newer {
		t.Errorf("after uninstall:\n%s", data)
	}
}
