package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A hierarchy is one of cgroup v1's trees, or the only one of v2, which has no
// name.
type hierarchy struct {
	Name string
	Dir  string // our cgroup in it; the nodes' lie below
}

const (
	cgroupFS   = "/sys/fs/cgroup"
	cgroupName = "tproxy-cni-cluster"
	cgroupFile = runDir + "/cgroups" // the hierarchies, as the first call of up found them
)

func (h hierarchy) node(n int) string { return fmt.Sprintf("%s/node%d", h.Dir, n) }

// findHierarchies lists the machine's. In v1 our cgroup lies below the current one,
// whose limits stay in force; in v2 below the root, because no other cgroup may have
// both processes and children with controllers.
func findHierarchies() ([]hierarchy, error) {
	if _, err := os.Stat(cgroupFS + "/cgroup.controllers"); err == nil {
		return []hierarchy{{"", filepath.Join(cgroupFS, cgroupName)}}, nil
	}
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	var hs []hierarchy
	for line := range strings.Lines(string(text)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if name := strings.TrimPrefix(f[1], "name="); name != "" { // else v2 beside v1, without controllers
			hs = append(hs, hierarchy{name, filepath.Join(cgroupFS, name, f[2], cgroupName)})
		}
	}
	return hs, nil
}

func hierarchies() (hs []hierarchy, err error) {
	text, err := os.ReadFile(cgroupFile)
	if err != nil {
		return nil, err
	}
	return hs, json.Unmarshal(text, &hs)
}

// makeCgroups makes a node's cgroups, which must be new.
func makeCgroups(n int) error {
	hs, err := hierarchies()
	if errors.Is(err, fs.ErrNotExist) {
		if hs, err = findHierarchies(); err != nil {
			return err
		}
		text, _ := json.Marshal(hs)
		err = os.WriteFile(cgroupFile, text, 0o644)
	}
	if err != nil {
		return err
	}
	for _, h := range hs {
		if err := removeTree(h.node(n)); err != nil {
			return err
		}
		if err := os.MkdirAll(h.node(n), 0o755); err != nil {
			return err
		}
		// By default a cgroup weighs as much as one process beside it.
		switch h.Name {
		case "": // v2
			_ = os.WriteFile(filepath.Join(h.Dir, "cpu.weight"), []byte("1000"), 0o644) // there if we may
			err = handOn(h.Dir)
		case "cpu", "cpu,cpuacct":
			err = os.WriteFile(filepath.Join(h.Dir, "cpu.shares"), []byte("10240"), 0o644)
		case "cpuset": // no process may join while these are empty
			err = errors.Join(inherit(h.Dir), inherit(h.node(n)))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// inherit gives a cgroup its parent's processors and memory.
func inherit(dir string) error {
	for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
		text, err := os.ReadFile(filepath.Join(dir, "..", f))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, f), bytes.TrimSpace(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// handOn enables every controller of a v2 cgroup for its children.
func handOn(dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	all := "+" + strings.Join(strings.Fields(string(text)), " +")
	return os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte(all), 0o644)
}

// settle mounts the node's view of its cgroups. In v2 the daemons move out of the
// root, where the kubelet creates children with controllers.
func settle(int) error {
	hs, err := hierarchies()
	if err != nil {
		return err
	}
	if hs[0].Name == "" {
		if err := syscall.Mount("cgroup2", cgroupFS, "cgroup2", 0, ""); err != nil {
			return os.NewSyscallError("mount cgroup2", err)
		}
		daemons := filepath.Join(cgroupFS, daemonsGroup)
		if err := os.Mkdir(daemons, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(daemons, "cgroup.procs"), []byte("0"), 0o644); err != nil {
			return err
		}
		return handOn(cgroupFS)
	}
	if err := syscall.Mount("tmpfs", cgroupFS, "tmpfs", 0, "mode=755"); err != nil {
		return os.NewSyscallError("mount tmpfs", err)
	}
	for _, h := range hs {
		dir, options := filepath.Join(cgroupFS, h.Name), h.Name
		if h.Name == "systemd" {
			options = "none,name=systemd"
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		if err := syscall.Mount("cgroup", dir, "cgroup", 0, options); err != nil {
			return fmt.Errorf("mount cgroup %s: %w", h.Name, err)
		}
	}
	return nil
}

const daemonsGroup = "daemons" // v2 only

// join moves this process into a node's cgroups, which entering the cgroup namespace
// does not do, and execs args.
func join(n int, args []string) error {
	hs, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range hs {
		dir := h.node(n)
		if _, err := os.Stat(filepath.Join(dir, daemonsGroup)); err == nil {
			dir = filepath.Join(dir, daemonsGroup)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0o644); err != nil {
			return err
		}
	}
	return become(args)
}

// become execs args. It returns only if that fails.
func become(args []string) error {
	path, err := exec.LookPath(args[0])
	if err != nil {
		return err
	}
	return os.NewSyscallError("exec "+path, syscall.Exec(path, args, os.Environ()))
}

// removeCgroups removes ours.
func removeCgroups() error {
	hs, err := hierarchies()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, h := range hs {
		err = errors.Join(err, removeTree(h.Dir))
	}
	return err
}

// removeTree removes a cgroup and those below it, which are busy until their last
// process is gone.
func removeTree(root string) error {
	return eventually(10*time.Second, "remove "+root, func() error {
		var dirs []string
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		var err error
		for _, dir := range slices.Backward(dirs) { // children first
			err = errors.Join(err, syscall.Rmdir(dir))
		}
		return err
	})
}
