package disk_test

import (
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/install/disk"
)

// TestLockFile: one holder at a time, also when others wait and while its file is
// removed and made again; a killed holder's file does not block, and is removed.
func TestLockFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, disk.LockName)
	if err := os.WriteFile(path, nil, 0o600); err != nil { // of one that was killed
		t.Fatal(err)
	}
	var inside, turns atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				unlock, err := disk.Lock(t.Context(), dir)
				if err != nil {
					t.Error(err)
					return
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d at once", n)
				}
				turns.Add(1)
				runtime.Gosched()
				inside.Add(-1)
				unlock()
			}
		})
	}
	wg.Wait()
	if n := turns.Load(); n != 160 {
		t.Errorf("%d turns", n)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
}
