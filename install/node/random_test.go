package node_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/install/node"
	"github.com/tproxy-cni/tproxy-cni/install/node/nodetest"
)

// TestRandomOwners: whatever the owners of the other files do, in any order,
// between attempts, the entry is in the configuration that a runtime uses whenever
// there is one; and after uninstall every file is as its owner wrote it, and there
// are no other files.
func TestRandomOwners(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	ctx := context.Background()
	for range 60 {
		n := nodetest.New(t)
		target := n.Installer()
		var story []string
		for range 1 + r.IntN(8) {
			story = append(story, act(n, r))
			_, err := target.Install(ctx)
			var tr node.Failure
			if err != nil && (!errors.As(err, &tr) || tr.Kind != node.Waiting) {
				t.Fatalf("%v after %q", err, story)
			}
			if len(n.Configs) == 0 {
				if left := nodetest.Tree(t, n.ConfDir); len(left) > 0 {
					t.Fatalf("only the installer's files are left: %v after %q", left, story)
				}
				continue
			}
			list, lerr := nodetest.Load(n.ConfDir)
			if err == nil && (lerr != nil || !slices.ContainsFunc(list.Plugins, nodetest.IsPlugin)) {
				t.Fatalf("ready, and a runtime finds %v (%v) after %q", list, lerr, story)
			}
			if err != nil && lerr == nil && !halfWritten(n) {
				t.Fatalf("%v, and a runtime finds %v after %q", err, list.Name, story)
			}
		}
		if halfWritten(n) {
			finish(n)
		}
		_, err := target.Uninstall(ctx, node.Remove)
		must(t, err)
		got := map[string]string{}
		for name, text := range nodetest.Tree(t, n.ConfDir) {
			_, got[name], _ = strings.Cut(text, "\n")
		}
		if diff := cmp.Diff(n.Configs, got); diff != "" {
			t.Fatalf("after %q (-owners +is):\n%s", story, diff)
		}
	}
}

var ownersNames = []string{"05-a.conflist", "10-b.conf", "10-b.json", "10-b.conflist", "20-c.json"}

// act does one thing that an owner may do.
func act(n *nodetest.Node, r *rand.Rand) string {
	name := ownersNames[r.IntN(len(ownersNames))]
	whole := fmt.Sprintf(`{"name":"n%d","cniVersion":"1.0.0","type":"ptp","x":[1.50, 2]}`, r.IntN(100))
	if strings.HasSuffix(name, ".conflist") {
		whole = fmt.Sprintf(`{"name":"n%d","cniVersion":"1.0.0", "plugins":[ {"type":"ptp"}, {"type":"portmap"} ] }`, r.IntN(100))
	}
	switch r.IntN(4) {
	case 0:
		_ = os.Remove(filepath.Join(n.ConfDir, name))
		delete(n.Configs, name)
		return "remove " + name
	case 1:
		n.WriteConf(name, whole[:r.IntN(len(whole))])
		return "half of " + name
	default:
		n.WriteConf(name, whole)
		return "write " + name
	}
}

func halfWritten(n *nodetest.Node) bool {
	for _, data := range n.Configs {
		if !json.Valid([]byte(data)) {
			return true
		}
	}
	return false
}

// finish writes whole what was written in half.
func finish(n *nodetest.Node) {
	for name, data := range n.Configs {
		if json.Valid([]byte(data)) {
			continue
		}
		whole := `{"name":"n","cniVersion":"1.0.0","type":"ptp"}`
		if strings.HasSuffix(name, ".conflist") {
			whole = `{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"ptp"}]}`
		}
		n.WriteConf(name, whole)
	}
}
