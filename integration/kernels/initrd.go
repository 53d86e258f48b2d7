package main

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

//go:embed init.sh
var initScript []byte

// early are the modules for mounting the root file system; all others are loaded
// from it on demand.
var early = []string{"virtio_pci", "9pnet_virtio", "9p", "overlay", crc32c}

// crc32c is for libcrc32c, which nf_tables needs: it fails to load without an
// implementation and does not request one. Newer kernels have neither module.
const crc32c = "crc32c_generic"

// initrd returns the guest's initial file system: busybox, the early modules, init.sh,
// and what tests.sh reads.
func initrd(ctx context.Context, k kernel, plan, environment string) ([]byte, error) {
	busybox, err := os.ReadFile(k.busybox)
	if err != nil {
		return nil, err
	}
	var a archive
	for _, dir := range []string{"bin", "dev", "proc", "sys", "host", "cover", "root", "early", "lib", "lib/modules"} {
		a.add(dir, modeDir|0o755, nil)
	}
	a.add("bin/busybox", modeFile|0o755, busybox)
	a.add("sbin", modeLink|0o777, []byte("bin")) // the kernel asks for /sbin/modprobe
	a.add("init", modeFile|0o755, initScript)
	a.add("plan", modeFile|0o644, []byte(plan))
	a.add("environment", modeFile|0o644, []byte(environment))

	var order []string
	seen := map[string]bool{}
	for _, name := range early {
		paths, err := needed(ctx, k, name)
		if err != nil {
			return nil, err
		}
		for _, path := range paths {
			if seen[path] {
				continue
			}
			seen[path] = true
			data, err := os.ReadFile(path)
			if err != nil {
				return nil, err
			}
			file := filepath.Base(path)
			a.add("early/"+file, modeFile|0o644, data)
			order = append(order, file)
		}
	}
	a.add("early/order", modeFile|0o644, []byte(strings.Join(order, "\n")+"\n"))
	a.add("TRAILER!!!", 0, nil)
	return a.Bytes(), nil
}

// needed returns the files of a module and its dependencies in load order; none for
// a built-in module.
func needed(ctx context.Context, k kernel, name string) (paths []string, err error) {
	out, err := command(ctx, "", "/sbin/modprobe", "-d", k.dir, "-S", k.release, "--show-depends", name)
	if name == crc32c && err != nil && strings.Contains(err.Error(), "not found") {
		return nil, nil
	}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "insmod" {
			paths = append(paths, f[1])
		}
	}
	return paths, err
}

// archive is a cpio archive in the form that the kernel unpacks at its start
// (newc).
type archive struct {
	bytes.Buffer
	inode int
}

const (
	modeDir  = 0o040000
	modeFile = 0o100000
	modeLink = 0o120000
)

func (a *archive) add(name string, mode int, data []byte) {
	a.inode++
	// inode, mode, uid, gid, links, mtime, size, device's and node's numbers, length of name, checksum
	fmt.Fprintf(a, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
	a.pad()
	a.Write(data)
	a.pad()
}

// pad fills up to a multiple of four.
func (a *archive) pad() { a.Write(make([]byte, -a.Len()&3)) }
