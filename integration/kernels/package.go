package main

import (
	"context"
	"errors"
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
	version string // as on the command line
	pkg     string
	dir     string // as the package would lie in /
	release string // as uname -r says
	busybox string // needs no library; this machine's own may, and the two packages exclude each other
}

func (k kernel) modules() string { return filepath.Join(k.dir, "lib/modules") }

// image is the kernel itself; from Linux 6.19 on it lies beside its modules.
func (k kernel) image() string {
	beside := filepath.Join(k.modules(), k.release, "vmlinuz")
	if _, err := os.Stat(beside); err == nil {
		return beside
	}
	return filepath.Join(k.dir, "boot/vmlinuz-"+k.release)
}

// fetch finds Debian's newest kernel of a version, or of all if that is [newest],
// and unpacks it in the user's cache, where it stays. Nothing is installed.
func fetch(ctx context.Context, version string) (kernel, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return kernel{}, err
	}
	cache = filepath.Join(cache, "tproxy-cni-kernels")
	a, updated, err := openApt(ctx, cache)
	if err != nil {
		return kernel{}, err
	}
	k, err := fetchListed(ctx, a, cache, version)
	if err == nil || updated || ctx.Err() != nil {
		return k, err
	}
	updateErr := a.update(ctx) // the lists may name packages that are gone
	if k, err = fetchListed(ctx, a, cache, version); err != nil {
		err = errors.Join(err, updateErr)
	}
	return k, err
}

// fetchListed is fetch by the lists that apt has.
func fetchListed(ctx context.Context, a apt, cache, version string) (k kernel, err error) {
	k.version = version
	list, err := a.run(ctx, "", "apt-cache", "pkgnames", "linux-image-")
	if err != nil {
		return k, err
	}
	if k.pkg = pick(list, version); k.pkg == "" {
		return k, fmt.Errorf("apt knows no linux-image-%s.*-amd64 in %s", version, strings.Join(suites, ", "))
	}
	if k.dir, err = unpacked(ctx, a, cache, k.pkg, plainModules); err != nil {
		return k, err
	}
	static, err := unpacked(ctx, a, cache, "busybox-static", func(context.Context, string) error { return nil })
	if err != nil {
		return k, err
	}
	if k.busybox, err = onlyOne(filepath.Join(static, "bin/busybox"), filepath.Join(static, "usr/bin/busybox")); err != nil {
		return k, err // newer packages have it in usr/bin
	}
	release, err := onlyOne(filepath.Join(k.modules(), "*"))
	k.release = filepath.Base(release)
	return k, err
}

// onlyOne returns the only file of these patterns.
func onlyOne(patterns ...string) (string, error) {
	var files []string
	for _, p := range patterns {
		found, err := filepath.Glob(p)
		if err != nil {
			return "", err
		}
		files = append(files, found...)
	}
	if len(files) != 1 {
		return "", fmt.Errorf("want one file %s, there are %d", strings.Join(patterns, " or "), len(files))
	}
	return files[0], nil
}

// unpacked returns the directory of a package. If it is not cached the package is
// downloaded with its parts, unpacked and passed to ready; the directory then appears
// as a whole.
func unpacked(ctx context.Context, a apt, cache, pkg string, ready func(ctx context.Context, root string) error) (dir string, err error) {
	dir = filepath.Join(cache, pkg)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	tmp, err := os.MkdirTemp(cache, "new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	depends, err := a.run(ctx, "", "apt-cache", "depends", "--important", pkg)
	if err != nil {
		return "", err
	}
	pkgs := append(parts(depends, pkg), pkg)
	if _, err := a.run(ctx, tmp, "apt-get", append([]string{"-q", "download"}, pkgs...)...); err != nil {
		return "", err
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(debs) != len(pkgs) {
		return "", fmt.Errorf("download of %v: %v (%w)", pkgs, debs, err)
	}
	root := filepath.Join(tmp, "root")
	for _, deb := range debs {
		if _, err := command(ctx, "", "dpkg", "-x", deb, root); err != nil {
			return "", err
		}
	}
	if err := ready(ctx, root); err != nil {
		return "", err
	}
	return dir, os.Rename(root, dir)
}

// parts are the packages that a kernel's is made of, from 6.19 on: linux-binary-,
// linux-modules- and linux-base- of its release, on which it depends as apt-cache
// depends lists them. An older one depends on none.
func parts(depends, pkg string) (pkgs []string) {
	release, isKernel := strings.CutPrefix(pkg, "linux-image-")
	for line := range strings.Lines(depends) {
		name, isDependency := strings.CutPrefix(strings.TrimSpace(line), "Depends: ")
		if isKernel && isDependency && strings.HasPrefix(name, "linux-") && strings.HasSuffix(name, "-"+release) {
			pkgs = append(pkgs, name)
		}
	}
	return pkgs
}

// plainModules decompresses a kernel's modules, since the guest's modprobe passes the
// files to the kernel unchanged, and puts them where older packages have them.
func plainModules(ctx context.Context, root string) error {
	if _, err := os.Stat(filepath.Join(root, "usr/lib/modules")); err == nil {
		if err := os.Rename(filepath.Join(root, "usr/lib"), filepath.Join(root, "lib")); err != nil {
			return err
		}
	}
	releases, err := os.ReadDir(filepath.Join(root, "lib/modules"))
	if err != nil {
		return err
	}
	for _, r := range releases {
		if _, err := command(ctx, filepath.Join(root, "lib/modules", r.Name()),
			"find", ".", "-name", "*.ko.xz", "-exec", "xz", "-d", "{}", "+"); err != nil {
			return err
		}
		if _, err := command(ctx, "", "/sbin/depmod", "-b", root, r.Name()); err != nil {
			return err
		}
	}
	return nil
}

// newest is the version that stands for the newest one.
const newest = "newest"

// pick picks, of these names of packages, the newest of a version. The flavours
// (cloud, rt), the meta-packages, the debug symbols, kernels for an older Debian and
// release candidates are not of this form.
func pick(list, version string) (pkg string) {
	v := regexp.QuoteMeta(version)
	if version == newest {
		v = `[0-9]+\.[0-9]+`
	}
	form := regexp.MustCompile(`^linux-image-(` + v + `\.[0-9]+(?:-[0-9]+|\+deb[0-9.]+)?)-amd64$`)
	var best []int
	for line := range strings.Lines(list) {
		m := form.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		if n := numbers(m[1]); slices.Compare(n, best) > 0 {
			pkg, best = m[0], n
		}
	}
	return pkg
}

// numbers returns the numbers in a text.
func numbers(s string) (ns []int) {
	for _, d := range regexp.MustCompile(`[0-9]+`).FindAllString(s, -1) {
		n, _ := strconv.Atoi(d)
		ns = append(ns, n)
	}
	return ns
}
