package nodetest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// CheckInvariants returns an error unless the node is as it must be at every
// moment: a runtime finds a valid configuration, and if that names the plugin,
// the program is there.
func (n *Node) CheckInvariants() error {
	for {
		list, err := Load(n.ConfDir)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(list.Plugins, IsPlugin) {
			return nil
		}
		_, err = os.Stat(filepath.Join(n.BinDir, contract.PluginType))
		if err == nil {
			return nil
		}
		// It may have been removed after the entry, between the two looks.
		again, lerr := Load(n.ConfDir)
		if lerr != nil || slices.ContainsFunc(again.Plugins, IsPlugin) {
			return errors.Join(lerr, fmt.Errorf("%s names a program that is not there: %w", list.Name, err))
		}
	}
}

// Observe checks the invariants all the time until the returned function is
// called.
func (n *Node) Observe() (end func()) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		look := time.NewTicker(2 * time.Millisecond) // the processor is the installer's, too
		defer look.Stop()
		for {
			if err := n.CheckInvariants(); err != nil {
				n.T.Error("at some moment:", err)
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
