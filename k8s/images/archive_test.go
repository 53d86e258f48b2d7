package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// checkArchive reads a docker archive as `docker load`, `kind load
// image-archive`, `k3d image import` and `ctr images import` do, without the
// library that wrote it: manifest.json names the tags, the config and the
// layers, each of these is an entry of the archive, and their digests are what
// the names and the config say.
func checkArchive(t *testing.T, path string, tags []string) {
	t.Helper()
	entries := unpack(t, path)
	var manifest []struct {
		Config           string
		RepoTags, Layers []string
	}
	if err := json.Unmarshal(entries["manifest.json"], &manifest); err != nil || len(manifest) != 1 {
		t.Fatalf("%s: manifest.json: %v %q", path, err, entries["manifest.json"])
	}
	m := manifest[0]
	if diff := cmp.Diff(tags, m.RepoTags); diff != "" {
		t.Errorf("%s: RepoTags (-want +got):\n%s", path, diff)
	}
	if got := digest(entries[m.Config]); got != m.Config {
		t.Errorf("%s: config %s has digest %s", path, m.Config, got)
	}
	var config struct {
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	if err := json.Unmarshal(entries[m.Config], &config); err != nil {
		t.Fatal(err)
	}
	var layers []string
	for _, name := range m.Layers {
		z, err := gzip.NewReader(bytes.NewReader(entries[name]))
		if err != nil {
			t.Fatalf("%s: layer %s: %v", path, name, err)
		}
		plain, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		layers = append(layers, digest(plain))
		delete(entries, name)
	}
	if diff := cmp.Diff(config.RootFS.DiffIDs, layers); diff != "" {
		t.Errorf("%s: layers (-config +archive):\n%s", path, diff)
	}
	delete(entries, m.Config)
	delete(entries, "manifest.json")
	for name := range entries {
		t.Errorf("%s: nothing names %s", path, name)
	}
}

func digest(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

func unpack(t *testing.T, path string) map[string][]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	entries := map[string][]byte{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return entries
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg {
			t.Errorf("%s: %s is not a regular file", path, h.Name)
		}
		if entries[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}
