package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// configFile is a file that container runtimes consider.
type configFile struct {
	name     string
	data     []byte
	err      error // it could not be read
	modified time.Time
}

// readConfigs reads what libcni considers, in the order in which runtimes do.
func readConfigs(dir string) (files []configFile, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		switch filepath.Ext(e.Name()) {
		case ".conf", ".conflist", ".json":
		default:
			continue
		}
		if e.IsDir() || strings.HasPrefix(e.Name(), tempPrefix) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		f := configFile{name: e.Name()}
		f.data, f.modified, f.err = readConfig(path)
		if errors.Is(f.err, fs.ErrNotExist) {
			if _, gone := os.Lstat(path); gone != nil {
				continue
			}
		}
		files = append(files, f)
	}
	return files, nil
}

// largest is how large a configuration may be; real ones have a few KiB.
const largest = 1 << 20

// readConfig reads one file and never waits, as for the other end of a pipe,
// because whoever calls it holds the lock.
func readConfig(path string) (data []byte, modified time.Time, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, modified, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, modified, err
	}
	if !info.Mode().IsRegular() || info.Size() > largest {
		return nil, info.ModTime(), fmt.Errorf("%s is no regular file of at most 1 MiB", path)
	}
	data, err = io.ReadAll(f)
	return data, info.ModTime(), err
}

// errMoved says that somebody changed a file after we had read it.
var errMoved = errors.New("changed by somebody else in the meantime")

// still fails where the file at path does not hold data any more, or, for nil,
// where there is one.
func still(path string, data []byte) error {
	have, _, err := readConfig(path)
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
	return fmt.Errorf("%s: %w", path, errMoved)
}
