package inject

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// extensions are those of the files that kubectl reads in a directory.
var extensions = []string{".json", ".yaml", ".yml"}

// ReadFiles reads files, directories and, for "-", stdin, in the order given; of a
// directory the files that kubectl reads, by name, and with recursive those below. Its
// error names each that cannot be read.
func ReadFiles(paths []string, recursive bool, stdin io.Reader) (files []File, err error) {
	var faults []error
	read := false
	for _, path := range paths {
		if path == "-" {
			if read {
				faults = append(faults, errors.New("-f -: standard input can be read only once"))
				continue
			}
			read = true
			text, err := io.ReadAll(stdin)
			if err != nil {
				faults = append(faults, fmt.Errorf("standard input: %w", err))
			}
			files = append(files, File{Text: text})
			continue
		}
		names, err := below(path, recursive)
		faults = append(faults, shown(path, err))
		for _, name := range names {
			text, err := os.ReadFile(name)
			faults = append(faults, shown(name, err))
			files = append(files, File{name, text})
		}
	}
	if len(files) > 1 {
		for i := range files {
			if files[i].Name == "" {
				files[i].Name = "standard input"
			}
		}
	}
	return files, errors.Join(faults...)
}

// shown is an error with the file's name, which may be anything.
func shown(name string, err error) error {
	var in *fs.PathError
	if errors.As(err, &in) {
		err = in.Err
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", printable.Word(name), err)
}

// below are the files of a directory, or the file itself.
func below(path string, recursive bool) (names []string, err error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !info.IsDir():
		return []string{path}, nil
	}
	err = filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != path && !recursive:
			return filepath.SkipDir
		case !d.IsDir() && slices.Contains(extensions, filepath.Ext(name)):
			names = append(names, name)
		}
		return nil
	})
	if err == nil && len(names) == 0 {
		err = fmt.Errorf("the directory has no file with the extension %s", strings.Join(extensions, ", "))
	}
	return names, err
}
