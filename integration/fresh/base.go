package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// base returns a root file system with Debian's essential packages, make and git.
// It is made once and cached; what a trial installs on it is as new as apt's lists.
func base(ctx context.Context, cache string) (dir string, err error) {
	suite, sources, err := aptSources(ctx)
	if err != nil {
		return "", err
	}
	options, err := aptOptions(ctx)
	if err != nil {
		return "", err
	}
	args := []string{"--mode=root", "--variant=minbase", "--include=make,git,ca-certificates"}
	recipe := strings.Join(append(append(slices.Clone(args), suite, options), sources...), "\n")
	dir = filepath.Join(cache, fmt.Sprintf("base-%.6x", sha256.Sum256([]byte(recipe))))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	tmp, err := os.MkdirTemp(cache, "new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	optionsFile, root := filepath.Join(tmp, "apt.conf"), filepath.Join(tmp, "root")
	if err := os.WriteFile(optionsFile, []byte(options), 0o644); err != nil {
		return "", err
	}
	args = append(append(args, "--aptopt="+optionsFile, suite, root), sources...)
	if _, err := command(ctx, "mmdebstrap", args...); err != nil {
		return "", err
	}
	return dir, os.Rename(root, dir)
}

// aptSources returns the distribution's own sources among those that this machine's
// apt has lists of, as lines of a sources.list, and their suite.
func aptSources(ctx context.Context) (suite string, lines []string, err error) {
	list := func() (string, error) {
		return command(ctx, "apt-get", "indextargets", "--format", "$(LABEL)\t$(RELEASE)\t$(REPO_URI)\t$(COMPONENT)", "Created-By: Packages")
	}
	out, err := list()
	if err == nil && out == "" {
		_, err = command(ctx, "apt-get", "update", "-q")
		out, _ = list()
	}
	if err != nil {
		return "", nil, err
	}
	label, err := command(ctx, "sh", "-c", `. /etc/os-release && printf %s "$ID"`)
	if err != nil {
		return "", nil, err
	}
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		if len(f) != 4 || !strings.HasPrefix(strings.ToLower(f[0]), label) {
			continue
		}
		if suite == "" || len(f[1]) < len(suite) { // bookworm, not bookworm-updates
			suite = f[1]
		}
		lines = append(lines, fmt.Sprintf("deb %s %s %s", f[2], f[1], f[3]))
	}
	if lines == nil {
		return "", nil, errors.New("apt has no list of a distribution named " + label)
	}
	return suite, lines, nil
}

// aptOptions returns the settings with which this machine's apt reaches its sources:
// proxies, and whether it checks dates.
func aptOptions(ctx context.Context) (options string, err error) {
	out, err := command(ctx, "apt-config", "dump", "Acquire")
	for line := range strings.Lines(out) {
		for _, name := range []string{"http", "https", "Check-Valid-Until", "Check-Date", "Max-FutureTime", "Retries"} {
			if strings.HasPrefix(line, "Acquire::"+name+" ") || strings.HasPrefix(line, "Acquire::"+name+"::") {
				options += line
			}
		}
	}
	return options, err
}
