package node_test

import (
	"context"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/install/node"
	"github.com/tproxy-cni/tproxy-cni/install/node/nodetest"
)

// TestManyInstallers: any number of installers work at the same time, and the
// invariants hold at every moment.
func TestManyInstallers(t *testing.T) {
	for _, file := range []string{"10-flannel.conflist", "10-bridge.conf"} {
		n := nodetest.New(t, file)
		end := n.Observe()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				target := n.Installer()
				for range 5 {
					if _, err := target.Install(context.Background()); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		for range 4 {
			wg.Go(func() {
				if _, err := n.Installer().Uninstall(context.Background(), node.Remove); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		end()
		if diff := cmp.Diff(1, len(nodetest.Tree(t, n.ConfDir))); diff != "" {
			t.Errorf("files left: %v", nodetest.Tree(t, n.ConfDir))
		}
	}
}
