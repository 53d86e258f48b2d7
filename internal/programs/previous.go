package programs

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

//go:embed previous.txt
var previous string

// Release is a release of this project.
type Release struct {
	Version string // as in its tag: "v0.1.0"
	Commit  string // the whole hash
}

// Previous is the release before the sources here, from previous.txt.
func Previous() (r Release) {
	for line := range strings.Lines(previous) {
		if f := strings.Fields(line); len(f) == 2 {
			r = Release{f[0], f[1]}
		}
	}
	return r
}

// ErrNoHistory is that the release's commit is not in the repository.
var ErrNoHistory = errors.New("not in git's history here")

// Source returns the directory with the release's sources, which it takes from the
// history of the repository at root, once: they stay in the user's cache. It is an
// ErrNoHistory in a shallow clone or an archive.
func (r Release) Source(ctx context.Context, root string) (string, error) {
	return r.keep("source", func(dir string) error {
		// No repository of another user is refused: only objects are read.
		git := func(args ...string) *exec.Cmd {
			cmd := exec.CommandContext(ctx, "git", append([]string{"-c", "safe.directory=*"}, args...)...)
			cmd.Dir = root
			return cmd
		}
		if out, err := git("cat-file", "-e", r.Commit+"^{commit}").CombinedOutput(); err != nil {
			return fmt.Errorf("the sources of %s, commit %s: %w: git fetch --unshallow --tags (git says: %s)",
				r.Version, r.Commit, ErrNoHistory, bytes.TrimSpace(out))
		}
		archive, err := git("archive", r.Commit).Output()
		if err != nil {
			return fmt.Errorf("git archive %s: %w", r.Commit, err)
		}
		tar := exec.CommandContext(ctx, "tar", "-x", "-C", dir)
		tar.Stdin = bytes.NewReader(archive)
		if out, err := tar.CombinedOutput(); err != nil {
			return fmt.Errorf("tar: %w\n%s", err, out)
		}
		return nil
	})
}

// Build returns the directory with the release's programs, under the names that ours
// have. It builds them once, as a release is built: they stay in the user's cache. The
// errors are those of Source, and the compiler's output.
func (r Release) Build(ctx context.Context, root string) (string, error) {
	source, err := r.Source(ctx, root)
	if err != nil {
		return "", err
	}
	return r.keep("bin-"+runtime.Version()+"-"+runtime.GOARCH, func(dir string) error {
		for _, p := range All() {
			if !p.Ours() {
				continue
			}
			cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-trimpath",
				"-ldflags=-s -w -X github.com/tproxy-cni/tproxy-cni/internal/version.Version="+r.Version,
				"-o", filepath.Join(dir, p.Name), p.Package)
			cmd.Dir = source
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("build %s of %s: %w\n%s", p.Name, r.Version, err, out)
			}
		}
		return nil
	})
}

// keep returns the directory of this name in the cache, which fill fills if it is not
// there. Several processes may do so at once: the first wins.
func (r Release) keep(name string, fill func(dir string) error) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	all := filepath.Join(cache, "tproxy-cni-previous", r.Commit)
	dir := filepath.Join(all, name)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(all, 0o755); err != nil {
		return "", err
	}
	unfinished, err := os.MkdirTemp(all, ".new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(unfinished)
	err = errors.Join(os.Chmod(unfinished, 0o755), fill(unfinished))
	if err == nil {
		err = os.Rename(unfinished, dir)
	}
	if _, there := os.Stat(dir); err != nil && there == nil {
		return dir, nil
	}
	return dir, err
}
