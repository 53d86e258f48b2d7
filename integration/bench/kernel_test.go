package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestKernelMemory: a cache with several names counts once, others not at all.
func TestKernelMemory(t *testing.T) {
	dir := t.TempDir()
	cache := func(name, objects, order, perSlab string) {
		for file, text := range map[string]string{"objects": objects, "order": order, "objs_per_slab": perSlab, "shrink": ""} {
			path := filepath.Join(dir, name, file)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := kernelMemory(dir); err == nil {
		t.Error("no caches, and no error")
	}
	cache("TCP", "3 N0=1 N1=2", "1", "2")
	cache(":A-0000128", "10", "0", "32")
	cache("ext4_inode_cache", "50428 N0=50428", "2", "14")
	for _, alias := range []string{"eventpoll_epi", "tcp_bind_bucket"} {
		if err := os.Symlink(":A-0000128", filepath.Join(dir, alias)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := kernelMemory(dir)
	page := float64(os.Getpagesize())
	if want := 3*page*2/2 + 10*page/32; err != nil || got != want {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	if shrunk, _ := os.ReadFile(filepath.Join(dir, "TCP", "shrink")); len(shrunk) == 0 || shrunk[0] != '1' {
		t.Errorf("the cache was not shrunk: %q", shrunk)
	}
	cache("filp", "many", "0", "32")
	if _, err := kernelMemory(dir); err == nil {
		t.Error("objects is not a number, and no error")
	}
}
