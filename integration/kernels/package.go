package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// kernel is an unpacked package.
type kernel struct {
	pkg     string
	dir     string // as the package would lie in /
	release string // as uname -r says
}

func (k kernel) image() string   { return filepath.Join(k.dir, "boot/vmlinuz-"+k.release) }
func (k kernel) modules() string { return filepath.Join(k.dir, "lib/modules") }

// fetch finds Debian's newest kernel of a version and unpacks it in the user's
// cache, where it stays. Nothing is installed.
func fetch(ctx context.Context, version string) (k kernel, err error) {
	list, err := command(ctx, "", "apt-cache", "search", "--names-only", "^linux-image-"+regexp.QuoteMeta(version)+`\.`)
	if err != nil {
		return k, err
	}
	if k.pkg = newest(list, version); k.pkg == "" {
		return k, fmt.Errorf("apt knows no linux-image-%s.*-amd64: Debian 12 has 6.1 and 6.12, and apt-get update may be due", version)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return k, err
	}
	cache = filepath.Join(cache, "tproxy-cni-kernels")
	k.dir = filepath.Join(cache, k.pkg)
	if _, err := os.Stat(k.dir); err != nil {
		if err := unpack(ctx, k.pkg, cache); err != nil {
			return k, err
		}
	}
	releases, err := os.ReadDir(k.modules())
	if err != nil || len(releases) != 1 {
		return k, fmt.Errorf("%s holds not one kernel: %v (%w)", k.dir, releases, err)
	}
	k.release = releases[0].Name()
	return k, nil
}

// unpack downloads a package to cache/pkg: all of it or nothing.
func unpack(ctx context.Context, pkg, cache string) error {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(cache, "new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	// -q and no sandbox: apt's own user does not get into a home directory.
	if _, err := command(ctx, tmp, "apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", pkg); err != nil {
		return err
	}
	deb, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(deb) != 1 {
		return fmt.Errorf("download of %s: %v (%w)", pkg, deb, err)
	}
	root := filepath.Join(tmp, "root")
	if _, err := command(ctx, "", "dpkg", "-x", deb[0], root); err != nil {
		return err
	}
	releases, err := os.ReadDir(filepath.Join(root, "lib/modules"))
	if err != nil {
		return err
	}
	for _, r := range releases {
		// The guest's modprobe offers modules to the kernel as they are.
		if _, err := command(ctx, filepath.Join(root, "lib/modules", r.Name()),
			"find", ".", "-name", "*.ko.xz", "-exec", "xz", "-d", "{}", "+"); err != nil {
			return err
		}
		if _, err := command(ctx, "", "/sbin/depmod", "-b", root, r.Name()); err != nil {
			return err
		}
	}
	return os.Rename(root, filepath.Join(cache, pkg))
}

// newest picks, of the packages that apt-cache search lists, the newest of a
// version. The flavours (cloud, rt), the meta-packages and the debug symbols
// are not of this form.
func newest(list, version string) (pkg string) {
	form := regexp.MustCompile(`^linux-image-(` + regexp.QuoteMeta(version) + `\.[0-9]+(?:-[0-9]+|\+deb[0-9]+)?)-amd64$`)
	var best []int
	for line := range strings.Lines(list) {
		name, _, _ := strings.Cut(line, " ")
		m := form.FindStringSubmatch(strings.TrimSpace(name))
		if m == nil {
			continue
		}
		if n := numbers(m[1]); slices.Compare(n, best) > 0 {
			pkg, best = m[0], n
		}
	}
	return pkg
}

// numbers are the numbers in a text.
func numbers(s string) (ns []int) {
	for _, d := range regexp.MustCompile(`[0-9]+`).FindAllString(s, -1) {
		n, _ := strconv.Atoi(d)
		ns = append(ns, n)
	}
	return ns
}
