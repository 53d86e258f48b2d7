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
	pkg     string
	dir     string // as the package would lie in /
	release string // as uname -r says
	busybox string // needs no library; this machine's own may, and the two packages exclude each other
}

func (k kernel) image() string   { return filepath.Join(k.dir, "boot/vmlinuz-"+k.release) }
func (k kernel) modules() string { return filepath.Join(k.dir, "lib/modules") }

// fetch finds Debian's newest kernel of a version and unpacks it in the user's
// cache, where it stays. Nothing is installed.
func fetch(ctx context.Context, version string) (kernel, error) {
	k, err := fetchListed(ctx, version)
	if err == nil || ctx.Err() != nil {
		return k, err
	}
	// apt's lists may be missing, or name packages that are gone.
	_, updateErr := command(ctx, "", "apt-get", "update", "-q")
	if k, err = fetchListed(ctx, version); err != nil {
		err = errors.Join(err, updateErr)
	}
	return k, err
}

// fetchListed is fetch by the lists that apt has.
func fetchListed(ctx context.Context, version string) (k kernel, err error) {
	list, err := command(ctx, "", "apt-cache", "search", "--names-only", "^linux-image-"+regexp.QuoteMeta(version)+`\.`)
	if err != nil {
		return k, err
	}
	if k.pkg = newest(list, version); k.pkg == "" {
		return k, fmt.Errorf("apt knows no linux-image-%s.*-amd64: Debian 12 has 6.1 and 6.12", version)
	}
	if k.dir, err = unpacked(ctx, k.pkg, plainModules); err != nil {
		return k, err
	}
	static, err := unpacked(ctx, "busybox-static", func(context.Context, string) error { return nil })
	if err != nil {
		return k, err
	}
	k.busybox = filepath.Join(static, "bin/busybox")
	if _, err := os.Stat(k.busybox); errors.Is(err, os.ErrNotExist) {
		k.busybox = filepath.Join(static, "usr/bin/busybox") // so newer packages have it
	}
	releases, err := os.ReadDir(k.modules())
	if err != nil || len(releases) != 1 {
		return k, fmt.Errorf("%s does not have exactly one kernel: %v (%w)", k.dir, releases, err)
	}
	k.release = releases[0].Name()
	return k, nil
}

// unpacked returns the directory of a package. If it is not cached the package is
// downloaded, unpacked and passed to ready; the directory then appears as a whole.
func unpacked(ctx context.Context, pkg string, ready func(ctx context.Context, root string) error) (dir string, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	cache = filepath.Join(cache, "tproxy-cni-kernels")
	dir = filepath.Join(cache, pkg)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(cache, "new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	// -q and no sandbox: apt's own user does not get into a home directory.
	if _, err := command(ctx, tmp, "apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", pkg); err != nil {
		return "", err
	}
	deb, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(deb) != 1 {
		return "", fmt.Errorf("download of %s: %v (%w)", pkg, deb, err)
	}
	root := filepath.Join(tmp, "root")
	if _, err := command(ctx, "", "dpkg", "-x", deb[0], root); err != nil {
		return "", err
	}
	if err := ready(ctx, root); err != nil {
		return "", err
	}
	return dir, os.Rename(root, dir)
}

// plainModules decompresses a kernel's modules: the guest's modprobe passes the
// files to the kernel unchanged.
func plainModules(ctx context.Context, root string) error {
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

// numbers returns the numbers in a text.
func numbers(s string) (ns []int) {
	for _, d := range regexp.MustCompile(`[0-9]+`).FindAllString(s, -1) {
		n, _ := strconv.Atoi(d)
		ns = append(ns, n)
	}
	return ns
}
