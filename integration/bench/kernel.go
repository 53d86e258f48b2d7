package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// slabDir has a directory for each slab cache of the kernel, and links to them
// where one cache serves under several names.
const slabDir = "/sys/kernel/slab"

// connectionSlabs are the caches that grow with connections, found with 9,000 of
// them on Linux 6.18. Those of TIME_WAIT, which come later, are left out.
var connectionSlabs = []string{
	"TCP", "TCPv6", "sock_inode_cache", "filp", "dentry", "lsm_file_cache", "lsm_inode_cache",
	"eventpoll_epi", "eventpoll_pwq", "ep_head",
	"tcp_bind_bucket", "tcp_bind2_bucket",
	"rtable", "ip_dst_cache", "ip6_dst_cache", // the first two are one, before and since Linux 6.9
	"nf_conntrack",
}

// kernelMemory returns the size of the objects in these caches in bytes, each with
// its share of a slab's unused rest. Objects in the CPUs' free lists would count as
// used, so the caches are shrunk first.
func kernelMemory(dir string) (total float64, err error) {
	awaitRCU()
	seen := map[string]bool{}
	for _, name := range connectionSlabs {
		cache, err := filepath.EvalSymlinks(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) || seen[cache] {
			continue // another kernel's, or one that is there under another name
		}
		if err != nil {
			return 0, err
		}
		seen[cache] = true
		if err := os.WriteFile(filepath.Join(cache, "shrink"), []byte("1"), 0); err != nil {
			return 0, err
		}
		var v [3]float64
		for i, file := range []string{"objects", "order", "objs_per_slab"} {
			if v[i], err = firstNumber(filepath.Join(cache, file)); err != nil {
				return 0, err
			}
		}
		objects, slab, each := v[0], float64(os.Getpagesize()<<int(v[1])), v[2]
		total += objects * slab / each
	}
	if len(seen) == 0 {
		return 0, fmt.Errorf("%s has no cache for connections", dir)
	}
	return total, nil
}

// firstNumber returns the first number in a file such as objects: "307 N0=307".
func firstNumber(file string) (float64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	word, _, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	n, err := strconv.ParseFloat(word, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	return n, nil
}

// awaitRCU waits until closed sockets are freed, except for objects that the kernel
// frees in batches: some hundreds for each CPU, up to 5 s later.
func awaitRCU() {
	const global = 1 // MEMBARRIER_CMD_GLOBAL: synchronize_rcu; the second is behind the first's callbacks
	for range 2 {
		_, _, _ = unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0)
	}
}

// forget removes the kernel's state of closed connections, which would otherwise
// expire in the middle of a measurement.
func (b *bench) forget() error {
	for _, s := range b.sites {
		for _, ns := range []*lab.NS{s.net.Client, s.net.Pod} {
			if out, err := ns.Try("ss", "--tcp", "--numeric", "--kill", "state", "time-wait"); err != nil {
				return fmt.Errorf("ss: %w: %s", err, out)
			}
		}
		if out, err := s.net.Pod.Try("conntrack", "--flush"); err != nil {
			return fmt.Errorf("conntrack: %w: %s", err, out)
		}
	}
	return nil
}
