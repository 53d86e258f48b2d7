package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// MaxEntries is how many entries of one kind Entries returns. A node has a few.
const MaxEntries = 1000

// ErrTooMany says that a directory has more than MaxEntries entries of a kind.
var ErrTooMany = fmt.Errorf("there are more than %d", MaxEntries)

// Entries returns the entries of dir for which keep is true, sorted by name.
// Nothing is kept in memory of the others, however many there are. The error is
// ErrTooMany, together with MaxEntries entries, or one of the file system.
func Entries(dir string, keep func(fs.DirEntry) bool) (kept []fs.DirEntry, err error) {
	d, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	for err == nil {
		var some []fs.DirEntry
		some, err = d.ReadDir(256)
		for _, e := range some {
			if !keep(e) {
				continue
			}
			if len(kept) == MaxEntries {
				err = ErrTooMany
				break
			}
			kept = append(kept, e)
		}
	}
	slices.SortFunc(kept, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return kept, err
}

// Read returns the content of the regular file at path and when it was last
// modified. It never blocks: not on the other end of a pipe, on the holder of a
// lease on the file, or on a file of /proc. The error says that the file is
// leased, is not a regular file of at most limit bytes (whole MiB), or is one of
// the file system, as fs.ErrNotExist.
func Read(path string, limit int64) (data []byte, modified time.Time, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("another process holds a lease on it: %w", err)
	}
	if err != nil {
		return nil, modified, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, modified, err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, info.ModTime(), fmt.Errorf("%s is not a regular file of at most %d MiB", printable.Word(path), limit>>20)
	}
	_ = f.SetReadDeadline(time.Now().Add(time.Second)) // most files do not support one and do not need one
	data, err = io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s has grown beyond %d MiB", printable.Word(path), limit>>20)
	}
	if err != nil {
		data = nil
	}
	return data, info.ModTime(), err
}
