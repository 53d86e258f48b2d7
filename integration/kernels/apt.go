package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// suites are Debian's, of which this machine's apt may know one: bullseye has Linux
// 5.10, bookworm 6.1, trixie 6.12, sid the newest.
var suites = []string{"bullseye", "bullseye-security", "bookworm", "bookworm-security", "trixie", "trixie-security", "sid"}

// keyring has the keys of all of them.
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// apt is the directory of lists of packages that are not this machine's; it has its
// settings (a proxy, a password) and its mirrors.
type apt string

// fresh is how old lists may be before they are fetched again.
const fresh = 24 * time.Hour

// openApt opens the lists in the cache and fetches them if they are not fresh. If the
// mirror does not answer, the old ones will do.
func openApt(ctx context.Context, cache string) (a apt, updated bool, err error) {
	a = apt(filepath.Join(cache, "apt"))
	for _, dir := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(string(a), dir), 0o755); err != nil {
			return a, false, err
		}
	}
	mirrors, err := listMirrors(ctx)
	if err != nil {
		return a, false, err
	}
	old, _ := os.ReadFile(a.sources())
	text, err := sources(mirrors)
	if err != nil {
		return a, false, err
	}
	info, err := os.Stat(a.updated())
	if err == nil && time.Since(info.ModTime()) < fresh && string(old) == text {
		return a, false, nil
	}
	if err := os.WriteFile(a.sources(), []byte(text), 0o644); err != nil {
		return a, false, err
	}
	if err := a.update(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "kernels: the lists of packages are not all up to date:", err)
	}
	return a, true, nil
}

// listMirrors are the mirrors of this machine's apt, for sources. Without lists, as
// container images are made, it has apt fetch them first.
func listMirrors(ctx context.Context) (mirrors string, err error) {
	ask := func() (string, error) {
		return command(ctx, "", "apt-get", "indextargets", "--format", "$(ORIGIN) $(CODENAME) $(REPO_URI)", "Created-By: Packages")
	}
	if mirrors, err = ask(); err != nil || mirrors != "" {
		return mirrors, err
	}
	if _, err = command(ctx, "", "apt-get", "-q", "update"); err != nil {
		return "", err
	}
	return ask()
}

// codename is a release's: one with a suffix (-updates, -backports, -debug) may have
// another mirror than the archive.
var codename = regexp.MustCompile(`^[a-z]+$`)

// sources is a sources.list of all suites at the mirrors that this machine uses for
// Debian: lines of origin, suite, URI. Without one for security fixes it has none of those.
func sources(mirrors string) (list string, err error) {
	archive, security := "", ""
	for line := range strings.Lines(mirrors) {
		f := strings.Fields(line)
		switch {
		case len(f) != 3 || f[0] != "Debian":
		case strings.HasSuffix(f[1], "-security"):
			security = f[2]
		case codename.MatchString(f[1]):
			archive = f[2]
		}
	}
	if archive == "" {
		return "", errors.New("apt has no lists of Debian: add a mirror to its sources and run apt-get update")
	}
	for _, suite := range suites {
		uri := archive
		if strings.HasSuffix(suite, "-security") {
			uri = security
		}
		if uri == "" {
			continue
		}
		list += fmt.Sprintf("deb [arch=amd64 signed-by=%s] %s %s main\n", keyring, uri, suite)
	}
	return list, nil
}

func (a apt) sources() string { return filepath.Join(string(a), "sources.list") }

// updated is an empty file as old as the lists.
func (a apt) updated() string { return filepath.Join(string(a), "updated") }

// update fetches the lists. A suite that is gone from the mirror is an error, but the
// others are there.
func (a apt) update(ctx context.Context) error {
	_, err := a.run(ctx, "", "apt-get", "-q", "update")
	if err != nil {
		return err
	}
	return os.WriteFile(a.updated(), nil, 0o644)
}

// run runs one of apt's programs on these lists. -q and no sandbox: apt's own user does
// not get into a home directory.
func (a apt) run(ctx context.Context, dir, program string, args ...string) (string, error) {
	options := []string{
		"-o", "Dir::Etc::sourcelist=" + a.sources(), "-o", "Dir::Etc::sourceparts=/dev/null",
		"-o", "Dir::Etc::preferences=/dev/null", "-o", "Dir::Etc::preferencesparts=/dev/null",
		"-o", "Dir::State::lists=" + filepath.Join(string(a), "lists"), "-o", "Dir::State::status=/dev/null",
		"-o", "Dir::Cache=" + filepath.Join(string(a), "cache"), "-o", "Dir::Cache::pkgcache=pkgcache.bin",
		"-o", "APT::Architecture=amd64", "-o", "APT::Sandbox::User=root",
		"-o", "Acquire::Languages=none", "-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
	}
	return command(ctx, dir, program, append(options, args...)...)
}
