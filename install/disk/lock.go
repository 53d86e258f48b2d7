package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// LockName is the lock file in the directory of configurations. Only its owner
// can open it and so hold the lock; a lock on the directory itself could be held
// forever by every user who may read it. The file exists only while an installer
// changes something, so that an attempt without a change causes no event for the
// runtime and nothing is left on the node.
const LockName = ".tproxy-cni.lock"

// Lock waits until no other installer holds the lock of dir. The kernel releases
// the lock of a killed process; the next one reuses the file it left. The error
// says that another installer still works on dir when ctx ends (and wraps
// ctx.Err()), that LockName is not a regular file, or is one of the file system.
// It needs write permission for dir.
func Lock(ctx context.Context, dir string) (unlock func(), err error) {
	path := filepath.Join(dir, LockName)
	for {
		f, err := tryLock(path)
		switch {
		case f != nil:
			// Removed before it is released: a process that waits for it then
			// sees that its file is no longer the one at path.
			return func() { _ = os.Remove(path); f.Close() }, nil
		case err != nil:
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("another installer works on %s: %w", dir, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// tryLock returns the locked file, or nil if another process holds the lock.
func tryLock(path string) (*os.File, error) {
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not the regular file that the installer makes: remove it", path)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, nil // a lease, which expires
	}
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil && isAt(f, path) {
		return f, nil
	}
	f.Close()
	if err == nil || errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) {
		return nil, nil
	}
	return nil, &fs.PathError{Op: "flock", Path: path, Err: err}
}

// isAt reports whether the file at path is still f, and not one made after f's
// owner removed it.
func isAt(f *os.File, path string) bool {
	have, err := f.Stat()
	if err != nil {
		return false
	}
	now, err := os.Lstat(path)
	return err == nil && os.SameFile(have, now) && now.Sys().(*syscall.Stat_t).Nlink > 0
}
