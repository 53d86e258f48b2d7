package main

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const sumsFile = "SHA256SUMS"

// entry is one file of an archive. All entries belong to root and have the time
// 1970-01-01, so that the same content gives the same bytes.
type entry struct {
	name    string // slash-separated
	mode    int64
	content []byte
}

// writeTar writes entries in the given order.
func writeTar(w io.Writer, entries []entry) error {
	t := tar.NewWriter(w)
	for _, e := range entries {
		h := tar.Header{Name: e.name, Mode: e.mode, Size: int64(len(e.content)), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
		if err := t.WriteHeader(&h); err != nil {
			return err
		}
		if _, err := t.Write(e.content); err != nil {
			return err
		}
	}
	return t.Close()
}

// writeArchive writes a tar, compressed where the name says so.
func (r release) writeArchive(name string, entries []entry) (err error) {
	f, err := os.Create(filepath.Join(r.dir, name))
	if err != nil {
		return err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
	}()
	if !strings.HasSuffix(name, "gz") {
		return writeTar(f, entries)
	}
	z := gzip.NewWriter(f) // its header has neither name nor time
	if err := writeTar(z, entries); err != nil {
		return err
	}
	return z.Close()
}

// tree reads all files below dir, in the order of their names; their names in
// the archive begin with prefix.
func tree(dir, prefix string) (entries []entry, err error) {
	err = filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		entries = append(entries, entry{path.Join(prefix, filepath.ToSlash(rel)), 0o644, content})
		return err
	})
	return entries, err
}

// archivePrograms writes one archive of the programs for each architecture.
func (r release) archivePrograms() error {
	licence, err := os.ReadFile(filepath.Join(r.source, "LICENSE"))
	if err != nil {
		return err
	}
	for _, arch := range arches {
		top := "tproxy-cni-" + r.version + "-linux-" + arch
		entries := []entry{{top + "/LICENSE", 0o644, licence}}
		for _, p := range ours() {
			content, err := os.ReadFile(r.program(p, arch))
			if err != nil {
				return err
			}
			entries = append(entries, entry{top + "/" + p, 0o755, content})
		}
		if err := r.writeArchive(top+".tar.gz", entries); err != nil {
			return err
		}
	}
	return nil
}

// archiveImages takes over the docker archives and packs the OCI layouts, since
// a release consists of files.
func (r release) archiveImages() error {
	for _, image := range images {
		for _, arch := range arches {
			content, err := os.ReadFile(filepath.Join(r.built, image+"-"+arch+".tar"))
			if err != nil {
				return err
			}
			if err := r.write(image+"-"+r.version+"-"+arch+".tar", content); err != nil {
				return err
			}
		}
		entries, err := tree(filepath.Join(r.built, image), "")
		if err != nil {
			return err
		}
		if err := r.writeArchive(image+"-"+r.version+".oci.tar", entries); err != nil {
			return err
		}
	}
	return nil
}

// write writes one file of the release.
func (r release) write(name string, content []byte) error {
	return os.WriteFile(filepath.Join(r.dir, name), content, 0o644)
}

// sums writes the checksums of all files, for `sha256sum -c`.
func (r release) sums() error {
	entries, err := tree(r.dir, "")
	if err != nil {
		return err
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	var text strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&text, "%x  %s\n", sha256.Sum256(e.content), e.name)
	}
	return r.write(sumsFile, []byte(text.String()))
}
