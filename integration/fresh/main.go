// Command fresh checks that `make demo` and `make test` install what they need on a
// machine that was just installed: a minimal Debian with make, git and Go.
// `make fresh` runs it.
//
// The machine is a directory: a root file system under an overlay in memory, with
// mount and PID namespaces of its own. However a trial ends, the kernel removes its
// mounts and processes. With arguments only the trials run whose name contains them.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, strings.Join(os.Args[1:], " "), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "fresh:", err)
		os.Exit(1)
	}
}

// run runs the trials whose name contains the text.
func run(ctx context.Context, only string, out io.Writer) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root to mount file systems: sudo make fresh")
	}
	work, err := os.MkdirTemp("", "tproxy-cni-fresh-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	m, err := newMachine(ctx, work)
	if err != nil {
		return err
	}
	passed, failed := 0, 0
	for _, t := range trials {
		if !strings.Contains(t.name, only) {
			continue
		}
		start := time.Now()
		said, err := m.try(ctx, t)
		took := time.Since(start).Round(time.Second)
		if ctx.Err() != nil {
			return ctx.Err() // interrupted: this trial has no result
		}
		if err != nil {
			failed++
			fmt.Fprintf(out, "FAIL %s, %v: %v\n%s\n", t.name, took, err, said)
			continue
		}
		passed++
		fmt.Fprintf(out, "ok   %s, %v\n", t.name, took)
	}
	fmt.Fprintf(out, "%d passed, %d failed\n", passed, failed)
	if failed > 0 {
		return fmt.Errorf("%d of %d trials failed", failed, passed+failed)
	}
	return nil
}

// machine is what each trial starts from, unchanged by the trials before.
type machine struct {
	base   string   // the root file system
	debs   string   // apt's download cache
	source string   // a clone of the project, with uncommitted changes
	work   string   // an empty directory to mount things at
	env    []string // where Go's toolchain and caches are
}

func newMachine(ctx context.Context, work string) (m machine, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return m, err
	}
	cache = filepath.Join(cache, "tproxy-cni-fresh")
	m = machine{debs: filepath.Join(cache, "debs"), source: filepath.Join(work, "source"), work: filepath.Join(work, "mount")}
	if err := errors.Join(os.MkdirAll(m.debs, 0o755), os.Mkdir(m.work, 0o755)); err != nil {
		return m, err
	}
	if m.base, err = base(ctx, cache); err != nil {
		return m, err
	}
	if err := clone(ctx, m.source); err != nil {
		return m, err
	}
	// Go's downloads are not part of the trials: the machine gets our caches.
	for _, mod := range []string{"go.mod", "tools.mod"} {
		if _, err := command(ctx, "go", "mod", "download", "-modfile="+mod); err != nil {
			return m, err
		}
	}
	for _, name := range []string{"GOROOT", "GOMODCACHE", "GOCACHE"} {
		dir, err := command(ctx, "go", "env", name)
		if err != nil {
			return m, err
		}
		m.env = append(m.env, name+"="+strings.TrimSpace(dir))
	}
	return m, nil
}

// clone copies the project with its uncommitted changes, owned as git clone would.
func clone(ctx context.Context, to string) error {
	if _, err := command(ctx, "git", "clone", "-q", "--no-checkout", ".", to); err != nil {
		return err
	}
	list, err := command(ctx, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate")
	if err != nil {
		return err
	}
	copy := []string{"--parents", "--preserve=mode,links", "--target-directory=" + to}
	for file := range strings.SplitSeq(list, "\x00") {
		if _, err := os.Lstat(file); err == nil && file != "" {
			copy = append(copy, file)
		}
	}
	_, err = command(ctx, "cp", copy...)
	return err
}

// command runs a program and returns its stdout; the error has its stderr.
func command(ctx context.Context, name string, args ...string) (string, error) {
	var out, said strings.Builder
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", name, err, said.String())
	}
	return out.String(), nil
}
