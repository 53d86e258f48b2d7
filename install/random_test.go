package main

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
)

// TestRandomOwners: whatever the owners of the other files do, in any order,
// between our attempts, we are in the configuration that a runtime takes
// whenever there is one, and after uninstall every file is as its owner wrote
// it and none is there besides.
func TestRandomOwners(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	ctx := context.Background()
	for range 60 {
		n := newTestNode(t)
		node := n.node()
		var story []string
		for range 1 + r.IntN(8) {
			story = append(story, n.act(r))
			_, err := node.install(ctx)
			var tr trouble
			if err != nil && (!errors.As(err, &tr) || tr.kind != atWaiting) {
				t.Fatalf("%v after %q", err, story)
			}
			if len(n.configs) == 0 {
				if left := tree(t, n.confDir); len(left) > 0 {
					t.Fatalf("the only files are ours: %v after %q", left, story)
				}
				continue
			}
			list, lerr := load(n.confDir)
			if err == nil && (lerr != nil || !slices.ContainsFunc(list.Plugins, isOurs)) {
				t.Fatalf("ready, and a runtime finds %v (%v) after %q", list, lerr, story)
			}
			if err != nil && lerr == nil && !n.halfWritten() {
				t.Fatalf("%v, and a runtime finds %v after %q", err, list.Name, story)
			}
		}
		if n.halfWritten() {
			n.finish()
		}
		_, err := node.uninstall(ctx, false)
		must(t, err)
		got := map[string]string{}
		for name, text := range tree(t, n.confDir) {
			_, got[name], _ = strings.Cut(text, "\n")
		}
		if diff := cmp.Diff(n.configs, got); diff != "" {
			t.Fatalf("after %q (-owners +is):\n%s", story, diff)
		}
	}
}

var ownersNames = []string{"05-a.conflist", "10-b.conf", "10-b.json", "10-b.conflist", "20-c.json"}

// act is one thing that an owner does.
func (n *theNode) act(r *rand.Rand) string {
	name := ownersNames[r.IntN(len(ownersNames))]
	whole := fmt.Sprintf(`{"name":"n%d","cniVersion":"1.0.0","type":"ptp","x":[1.50, 2]}`, r.IntN(100))
	if strings.HasSuffix(name, ".conflist") {
		whole = fmt.Sprintf(`{"name":"n%d","cniVersion":"1.0.0", "plugins":[ {"type":"ptp"}, {"type":"portmap"} ] }`, r.IntN(100))
	}
	switch r.IntN(4) {
	case 0:
		_ = os.Remove(filepath.Join(n.confDir, name))
		delete(n.configs, name)
		return "remove " + name
	case 1:
		n.writeConf(name, whole[:r.IntN(len(whole))])
		return "half of " + name
	default:
		n.writeConf(name, whole)
		return "write " + name
	}
}

func (n *theNode) halfWritten() bool {
	for _, data := range n.configs {
		if !json.Valid([]byte(data)) {
			return true
		}
	}
	return false
}

// finish writes whole what was written in half.
func (n *theNode) finish() {
	for name, data := range n.configs {
		if json.Valid([]byte(data)) {
			continue
		}
		whole := `{"name":"n","cniVersion":"1.0.0","type":"ptp"}`
		if strings.HasSuffix(name, ".conflist") {
			whole = `{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"ptp"}]}`
		}
		n.writeConf(name, whole)
	}
}
