package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// disk changes files of the node, each change whole or not at all: a new
// content is written to a temporary file in the same directory, reaches the
// disk, and takes the old one's place by one rename.
type disk struct {
	// before is told of each operation before it is done and may refuse it:
	// tests end the process here, or fill the disk. nil allows all.
	before func(op, path string) error
}

// Temporary files: no container runtime loads what ends so, in a
// configuration directory or as a plugin.
const tempPrefix, tempSuffix = ".tproxy-cni-", ".tmp"

// piece is how much one write operation writes.
const piece = 16 << 10

func (d disk) do(op, path string, f func() error) error {
	if d.before != nil {
		if err := d.before(op, path); err != nil {
			return &fs.PathError{Op: op, Path: path, Err: err}
		}
	}
	return f()
}

// content is what a file is to be.
type content struct {
	data     []byte
	mode     fs.FileMode
	uid, gid int

	// follow says that a symbolic link stays and the file behind it is
	// replaced, as in a directory that is swapped as a whole through a link
	// named ..data. Only files in the same directory or below are followed to.
	follow bool

	// ready, if set, is called with the finished temporary file just before
	// the rename; its error leaves the old file in place.
	ready func(temp string) error
}

// replace makes the file at path. A symbolic link there is replaced itself,
// unless c says to follow it.
func (d disk) replace(path string, c content) (err error) {
	target := path
	if c.follow {
		if target, err = behind(path); err != nil {
			return err
		}
	}
	temp, err := d.temp(filepath.Dir(target), c)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(temp) // what a crash leaves, sweep finds
		}
	}()
	if c.ready != nil {
		if err := c.ready(temp); err != nil {
			return err
		}
	}
	if err := d.do("rename", target, func() error { return os.Rename(temp, target) }); err != nil {
		return err
	}
	if err := d.syncDir(filepath.Dir(target)); err != nil {
		return err
	}
	if target != path {
		return d.poke(filepath.Dir(path))
	}
	return nil
}

// temp writes a temporary file, to the disk, and returns its path.
func (d disk) temp(dir string, c content) (path string, err error) {
	var f *os.File
	err = d.do("create", dir, func() (err error) {
		f, err = os.CreateTemp(dir, tempPrefix+"*"+tempSuffix)
		return err
	})
	if err != nil {
		return "", err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	for rest := c.data; len(rest) > 0; {
		n := min(piece, len(rest))
		err := d.do("write", f.Name(), func() error { _, err := f.Write(rest[:n]); return err })
		if err != nil {
			return "", err
		}
		rest = rest[n:]
	}
	if err := d.do("chmod", f.Name(), func() error { return f.Chmod(c.mode) }); err != nil {
		return "", err
	}
	if c.uid != os.Geteuid() || c.gid != os.Getegid() {
		// Without CAP_CHOWN it becomes ours, and the runtime is root, too.
		_ = d.do("chown", f.Name(), func() error { return f.Chown(c.uid, c.gid) })
	}
	return f.Name(), d.do("fsync", f.Name(), f.Sync)
}

// behind is the file that path leads to; path itself where there is none yet.
// A link that leads out of the directory leads to somebody else's file.
func behind(path string) (string, error) {
	link, err := os.Readlink(path)
	if err != nil {
		return path, nil // no link
	}
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	home, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(target, home+"/") {
		return "", fmt.Errorf("%s is a symbolic link out of its directory, to %s: make it a file", path, link)
	}
	return target, nil
}

// poke lets the runtime look at dir again. It hears only of changes in the
// directory itself, and not of files that come (containerd ignores those
// events), but of any that goes.
func (d disk) poke(dir string) error {
	path, err := d.temp(dir, content{mode: 0o600, uid: os.Geteuid(), gid: os.Getegid()})
	if err != nil {
		return err
	}
	return d.remove(path)
}

// remove deletes the file at path; one that is not there is no error.
func (d disk) remove(path string) error {
	err := d.do("remove", path, func() error { return unix.Unlink(path) })
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return &fs.PathError{Op: "remove", Path: path, Err: unwrapPath(err)}
	}
	return d.syncDir(filepath.Dir(path))
}

func unwrapPath(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

func (d disk) syncDir(dir string) error {
	return d.do("fsync", dir, func() error {
		f, err := os.Open(dir)
		if err != nil {
			return err
		}
		defer f.Close()
		return f.Sync()
	})
}

// sweep deletes temporary files that an installer left when it was killed.
// Whoever calls it holds the lock, so that they are nobody's.
func (d disk) sweep(dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, tempPrefix+"*"+tempSuffix))
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := d.remove(name); err != nil {
			return err
		}
	}
	return nil
}

// lock waits until no other installer works on dir. The kernel gives a killed
// one's lock back, and it leaves no file.
func lock(ctx context.Context, dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return func() { f.Close() }, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			f.Close()
			return nil, &fs.PathError{Op: "flock", Path: dir, Err: err}
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("another installer works on %s: %w", dir, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}
