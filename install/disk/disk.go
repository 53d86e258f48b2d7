// Package disk changes files of the node, each change whole or not at all, and
// reads files that others write without waiting for them. It needs write
// permission for the directories, and CAP_CHOWN only to keep another owner.
package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// Disk writes new content to a temporary file in the same directory, syncs it,
// and renames it over the old file. The zero value is ready to use.
type Disk struct {
	// Before is called with the name of each operation ("create", "write",
	// "chmod", "chown", "fsync", "rename", "remove") and its path, before it is
	// done; an error refuses the operation. Tests kill the process here, or fill
	// the disk. nil allows everything.
	Before func(op, path string) error
}

// Temporary files are called TempPrefix + random digits + TempSuffix. No
// container runtime loads a file that ends so, in a configuration directory or
// as a plugin.
const TempPrefix, TempSuffix = ".tproxy-cni-", ".tmp"

// chunk is how many bytes one write operation writes.
const chunk = 16 << 10

func (d Disk) do(op, path string, f func() error) error {
	if d.Before != nil {
		if err := d.Before(op, path); err != nil {
			return &fs.PathError{Op: op, Path: path, Err: err}
		}
	}
	return f()
}

// Content is what a file is to become.
type Content struct {
	Data     []byte
	Mode     fs.FileMode
	UID, GID int

	// Follow keeps a symbolic link and replaces the file behind it, as in a
	// directory that is swapped as a whole through a link named ..data. Only
	// links to files in the same directory or below it are followed.
	Follow bool

	// Ready, if set, is called with the path of the finished temporary file
	// just before the rename; its error leaves the old file in place.
	Ready func(temp string) error
}

// Replace writes the file at path. It replaces a symbolic link there, unless
// c.Follow is set. The error is one of the file system, of c.Ready, or says that
// a link leads out of its directory; the old file is then still in place,
// unless only the final sync of the directory failed. A refused chown is not an
// error: the file then has the caller's owner.
func (d Disk) Replace(path string, c Content) (err error) {
	target := path
	if c.Follow {
		if target, err = ResolveLink(path); err != nil {
			return err
		}
	}
	temp, err := d.temp(filepath.Dir(target), c)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(temp) // Sweep finds what a crash leaves
		}
	}()
	if c.Ready != nil {
		if err := c.Ready(temp); err != nil {
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
		return d.notifyRuntime(filepath.Dir(path))
	}
	return nil
}

// temp writes and syncs a temporary file in dir and returns its path.
func (d Disk) temp(dir string, c Content) (path string, err error) {
	var f *os.File
	err = d.do("create", dir, func() (err error) {
		f, err = os.CreateTemp(dir, TempPrefix+"*"+TempSuffix)
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
	for rest := c.Data; len(rest) > 0; {
		n := min(chunk, len(rest))
		err := d.do("write", f.Name(), func() error { _, err := f.Write(rest[:n]); return err })
		if err != nil {
			return "", err
		}
		rest = rest[n:]
	}
	if err := d.do("chmod", f.Name(), func() error { return f.Chmod(c.Mode) }); err != nil {
		return "", err
	}
	if c.UID != os.Geteuid() || c.GID != os.Getegid() {
		// Without CAP_CHOWN the file is owned by this process's user; the
		// runtime runs as root and can read it anyway.
		_ = d.do("chown", f.Name(), func() error { return f.Chown(c.UID, c.GID) })
	}
	return f.Name(), d.do("fsync", f.Name(), f.Sync)
}

// ResolveLink returns the file that the symbolic link at path leads to, or path
// itself if it is not a link or does not exist. The error says that the link
// cannot be resolved, or that it leads out of its directory, to a file that
// belongs to something else.
func ResolveLink(path string) (string, error) {
	link, err := os.Readlink(path)
	if err != nil {
		return path, nil // not a link
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
		return "", fmt.Errorf("%s is a symbolic link out of its directory, to %s: replace it with a regular file", printable.Word(path), printable.Word(link))
	}
	return target, nil
}

// notifyRuntime makes the runtime read dir again. It watches only the directory
// itself, not what is behind links in it, and containerd ignores events of
// created files but not of removed ones.
func (d Disk) notifyRuntime(dir string) error {
	path, err := d.temp(dir, Content{Mode: 0o600, UID: os.Geteuid(), GID: os.Getegid()})
	if err != nil {
		return err
	}
	return d.Remove(path)
}

// Touch sets the modification time of the file at path, which it follows no link to, to
// now.
func (d Disk) Touch(path string) error {
	return d.do("touch", path, func() error {
		now := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, now, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return &fs.PathError{Op: "touch", Path: path, Err: err}
		}
		return nil
	})
}

// Remove deletes the file at path. A file that does not exist is not an error.
func (d Disk) Remove(path string) error {
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

func (d Disk) syncDir(dir string) error {
	return d.do("fsync", dir, func() error {
		f, err := os.Open(dir)
		if err != nil {
			return err
		}
		defer f.Close()
		return f.Sync()
	})
}

// Sweep deletes the temporary files that a killed installer left in dir, up to
// MaxEntries at a time. The caller holds the lock, so no running installer owns
// them. The error is one of reading the directory or of Remove.
func (d Disk) Sweep(dir string) error {
	list, err := Entries(dir, IsTemp)
	if err != nil && !errors.Is(err, ErrTooMany) { // the rest comes next time
		return err
	}
	for _, e := range list {
		if err := d.Remove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// IsTemp reports whether e is a temporary file of Replace.
func IsTemp(e fs.DirEntry) bool {
	return e.Type().IsRegular() && strings.HasPrefix(e.Name(), TempPrefix) && strings.HasSuffix(e.Name(), TempSuffix)
}
