package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
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
		info, err := os.Stat(path)
		if err == nil {
			f.modified = info.ModTime()
			f.data, err = os.ReadFile(path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			if _, gone := os.Lstat(path); gone != nil {
				continue
			}
		}
		f.err = err
		files = append(files, f)
	}
	return files, nil
}

// errMoved says that somebody changed a file after we had read it.
var errMoved = errors.New("changed by somebody else in the meantime")

// still fails where the file at path does not hold data any more, or, for nil,
// where there is one.
func still(path string, data []byte) error {
	have, err := os.ReadFile(path)
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
