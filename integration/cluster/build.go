package main

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

const kubernetes = "v1.37.2" // go.mod says the same; the programs report it

// programs are what a node runs and nobody here wrote.
var programs = []struct {
	name, pkg string
	flags     []string
	cgo       bool
	links     []string // other names of the same program
}{
	{
		name: "hyper", pkg: "./hyper", flags: []string{strip + versions},
		links: []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"},
	},
	{name: "kubectl", pkg: "k8s.io/kubernetes/cmd/kubectl", flags: []string{strip + versions}}, // apart: it is started often
	{name: "containerd", pkg: "github.com/containerd/containerd/v2/cmd/containerd", flags: []string{"-tags=no_btrfs,no_zfs,no_devmapper", strip}},
	{name: "containerd-shim-runc-v2", pkg: "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2", flags: []string{strip}},
	{name: "ctr", pkg: "github.com/containerd/containerd/v2/cmd/ctr", flags: []string{strip}},
	{name: "runc", pkg: "github.com/opencontainers/runc", flags: []string{"-tags=seccomp", strip}, cgo: true},
	{name: "agnhost", pkg: "k8s.io/kubernetes/test/images/agnhost", flags: []string{strip}},
	{name: "bridge", pkg: "github.com/containernetworking/plugins/plugins/main/bridge", flags: []string{strip}},
	{name: "ptp", pkg: "github.com/containernetworking/plugins/plugins/main/ptp", flags: []string{strip}},
	{name: "loopback", pkg: "github.com/containernetworking/plugins/plugins/main/loopback", flags: []string{strip}},
	{name: "host-local", pkg: "github.com/containernetworking/plugins/plugins/ipam/host-local", flags: []string{strip}},
	{name: "portmap", pkg: "github.com/containernetworking/plugins/plugins/meta/portmap", flags: []string{strip}},
	{name: "bandwidth", pkg: "github.com/containernetworking/plugins/plugins/meta/bandwidth", flags: []string{strip}},
}

const (
	strip    = "-ldflags=-s -w"
	versions = " -X k8s.io/component-base/version.gitVersion=" + kubernetes + " -X k8s.io/component-base/version.gitMajor=1" +
		" -X k8s.io/component-base/version.gitMinor=37 -X k8s.io/component-base/version.gitTreeState=clean"
)

// build builds what is missing and links everything into binDir. A cold build
// takes some ten minutes, so the programs outlive the run, in the user's cache
// under a name that says what they were made from; hence nobody may change
// them in place.
func build() error {
	key, err := madeFrom("go.mod", "go.sum", "build.go", "hyper")
	if err != nil {
		return err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	dir := filepath.Join(cache, "tproxy-cni-cluster", key)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.MkdirAll(binDir, 0o755); err != nil {
		return err
	}
	for _, p := range programs {
		path := filepath.Join(dir, p.name)
		if _, err := os.Stat(path); err != nil {
			began := time.Now()
			say("building %s into %s, once; all of them take two cores a quarter of an hour", p.name, dir)
			if err := goBuild(path, p.pkg, p.cgo, p.flags...); err != nil {
				return err
			}
			say("built %s in %.0f s", p.name, time.Since(began).Seconds())
		}
		for _, name := range append(p.links, p.name) {
			if err := link(path, filepath.Join(binDir, name)); err != nil {
				return err
			}
		}
	}
	return buildOwn()
}

// buildOwn builds the programs of this module, whose sources change.
func buildOwn() error {
	for name, pkg := range map[string]string{"cluster": ".", "box": "./box"} {
		if err := goBuild(filepath.Join(binDir, name), pkg, false, strip); err != nil {
			return err
		}
	}
	for _, name := range []string{"base-cni", "flannel"} {
		if err := link("cluster", filepath.Join(binDir, name)); err != nil {
			return err
		}
	}
	return nil
}

// goBuild leaves the processor to others, and no half-written program.
func goBuild(out, pkg string, cgo bool, flags ...string) error {
	args := append([]string{"-n", "19", "go", "build", "-buildvcs=false", "-o", out + ".new"}, append(flags, pkg)...)
	cmd := exec.Command("nice", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if cgo {
		cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	}
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, text)
	}
	return os.Rename(out+".new", out)
}

// madeFrom hashes files, folders of files and the Go version.
func madeFrom(paths ...string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version(), runtime.GOARCH)
	for _, root := range paths {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			fmt.Fprintf(h, "%s %d\n%s", path, len(text), text)
			return err
		})
		if err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:8]), nil
}

// link makes or replaces a symbolic link.
func link(target, path string) error {
	os.Remove(path)
	return os.Symlink(target, path)
}
