package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// sound is what must hold on a node at every moment: a runtime finds a valid
// configuration, and the program of ours that it may name is there.
func (n *theNode) sound() error {
	for {
		list, err := load(n.confDir)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(list.Plugins, isOurs) {
			return nil
		}
		_, err = os.Stat(filepath.Join(n.binDir, contract.PluginType))
		if err == nil {
			return nil
		}
		// It may have gone after the entry had, between our two looks.
		again, lerr := load(n.confDir)
		if lerr != nil || slices.ContainsFunc(again.Plugins, isOurs) {
			return errors.Join(lerr, fmt.Errorf("%s names a program that is not there: %w", list.Name, err))
		}
	}
}

// observe checks soundness all the time until the returned function is called.
func (n *theNode) observe() (end func()) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		look := time.NewTicker(2 * time.Millisecond) // the processor is the installer's, too
		defer look.Stop()
		for {
			if err := n.sound(); err != nil {
				n.t.Error("at some moment:", err)
				return
			}
			select {
			case <-stop:
				return
			case <-look.C:
			}
		}
	})
	return func() { close(stop); wg.Wait() }
}

// TestManyInstallers: any number at once end in order, and at no moment is
// anything unsound.
func TestManyInstallers(t *testing.T) {
	for _, file := range []string{"10-flannel.conflist", "10-bridge.conf"} {
		n := newTestNode(t, file)
		end := n.observe()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				node := n.node()
				for range 5 {
					if _, err := node.install(context.Background()); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		for range 4 {
			wg.Go(func() {
				if _, err := n.node().uninstall(context.Background(), false); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		end()
		if diff := cmp.Diff(1, len(tree(t, n.confDir))); diff != "" {
			t.Errorf("files left: %v", tree(t, n.confDir))
		}
	}
}
