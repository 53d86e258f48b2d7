package node_test

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/install/disk"
	"github.com/tproxy-cni/tproxy-cni/install/node"
	"github.com/tproxy-cni/tproxy-cni/install/node/nodetest"
)

// TestEveryOperationFails: whichever file operation fails, the error says so, no
// temporary file is left, the directory has a valid configuration, and the next
// attempt succeeds.
func TestEveryOperationFails(t *testing.T) {
	for _, name := range []string{"10-flannel.conflist", "10-bridge.conf"} {
		for _, verb := range []string{"install", "uninstall"} {
			t.Run(name+" "+verb, func(t *testing.T) {
				ops := 0
				for at := 1; ; at++ {
					n := nodetest.New(t, name)
					if verb == "uninstall" {
						_, err := n.Installer().Install(context.Background())
						must(t, err)
					}
					count := 0
					target := n.Installer()
					target.Disk.Before = func(op, _ string) error {
						if count++; count == at && op != "chown" {
							return syscall.ENOSPC
						}
						return nil
					}
					act := func() (err error) {
						if verb == "install" {
							_, err = target.Install(context.Background())
						} else {
							_, err = target.Uninstall(context.Background(), node.Remove)
						}
						return err
					}
					err := act()
					if count < at {
						ops = at - 1
						must(t, err)
						break
					}
					if !errors.Is(err, syscall.ENOSPC) {
						t.Fatalf("operation %d: %v", at, err)
					}
					if _, err := nodetest.Load(n.ConfDir); err != nil {
						t.Fatalf("operation %d: %v", at, err)
					}
					for _, dir := range []string{n.ConfDir, n.BinDir} {
						for file := range nodetest.Tree(t, dir) {
							if strings.HasSuffix(file, disk.TempSuffix) {
								t.Errorf("operation %d leaves %s", at, file)
							}
						}
					}
					target.Disk.Before = nil
					must(t, act())
				}
				if ops < 4 {
					t.Errorf("only %d operations", ops)
				}
			})
		}
	}
}
