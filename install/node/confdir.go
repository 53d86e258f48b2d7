package node

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tproxy-cni/tproxy-cni/install/disk"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// configFile is a file that container runtimes consider.
type configFile struct {
	name     string
	data     []byte
	err      error // why it could not be read
	modified time.Time
}

// Limits, in bytes, on what is read from the directory of configurations. A
// real one has a few KiB.
const (
	largestConfig = 1 << 20  // of one configuration
	largestTotal  = 16 << 20 // of all together
)

// readConfDir reads the files that libcni considers, in the order in which
// runtimes do. The notes name what was skipped. The error is one of the file
// system, or that there are too many files.
func readConfDir(dir string) (files []configFile, notes []string, err error) {
	list, err := disk.Entries(dir, func(e fs.DirEntry) bool {
		ext := filepath.Ext(e.Name())
		return (ext == ".conf" || ext == ".conflist" || ext == ".json") && !strings.HasPrefix(e.Name(), disk.TempPrefix)
	})
	if errors.Is(err, disk.ErrTooMany) {
		err = fmt.Errorf("configurations in %s: %w: remove what is not one", dir, err)
	}
	if err != nil {
		return nil, nil, err
	}
	left := largestTotal
	for _, e := range list {
		if e.IsDir() {
			notes = append(notes, printable.Word(e.Name())+" is a directory: skipped, as by every runtime")
			continue
		}
		path := filepath.Join(dir, e.Name())
		f := configFile{name: e.Name()}
		f.data, f.modified, f.err = disk.Read(path, largestConfig)
		if errors.Is(f.err, fs.ErrNotExist) {
			if _, gone := os.Lstat(path); gone != nil {
				continue
			}
		}
		if left -= len(f.data); left < 0 {
			f.data, f.err = nil, fmt.Errorf("the configurations before it already have %d MiB", largestTotal>>20)
		}
		files = append(files, f)
	}
	return files, notes, nil
}

// errChanged says that another process changed a file after it was read.
var errChanged = errors.New("changed by another process meanwhile")

// checkUnchanged fails with errChanged if the file at path no longer holds data
// or, for nil, if there is one.
func checkUnchanged(path string, data []byte) error {
	have, _, err := disk.Read(path, largestConfig)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if data == nil {
			return nil
		}
	case err != nil:
		return err
	case data != nil && bytes.Equal(have, data):
		return nil
	}
	return fmt.Errorf("%s: %w", printable.Word(path), errChanged)
}
