package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// build runs the command as make does and returns its output directory.
func build(t *testing.T, source string, args ...string) string {
	t.Helper()
	out := t.TempDir()
	args = append([]string{"-source", source, "-out", out, "-version", "v1.2.3"}, args...)
	if err := run(args, io.Discard); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestImages builds everything as `make images` does and reads it back.
func TestImages(t *testing.T) {
	arches := []string{"amd64", "arm64"}
	args := []string{"-tproxy-cni", "v9", "-echo-server", "example.org/echo:v8"}
	out := build(t, "../..", args...)
	for _, i := range images {
		for _, arch := range arches {
			t.Run(i.name+"-"+arch, func(t *testing.T) {
				img, err := tarball.ImageFromPath(filepath.Join(out, i.name+"-"+arch+".tar"), nil)
				if err != nil {
					t.Fatal(err)
				}
				checkImage(t, img, i, arch)
			})
		}
		t.Run(i.name+"-layout", func(t *testing.T) { checkLayout(t, filepath.Join(out, i.name), i, arches) })
	}
	named := map[string][]string{"tproxy-cni": {"tproxy-cni:latest", "tproxy-cni:v9"}, "echo-server": {"example.org/echo:v8"}}
	for _, i := range images {
		for _, arch := range arches {
			checkArchive(t, filepath.Join(out, i.name+"-"+arch+".tar"), named[i.name])
		}
	}
	t.Run("reproducible", func(t *testing.T) { checkReproducible(t, out, args) })
}

func checkImage(t *testing.T, img v1.Image, i image, arch string) {
	t.Helper()
	if err := validate.Image(img); err != nil {
		t.Error(err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	want := v1.Config{
		User: i.user, Entrypoint: []string{i.entrypoint}, ExposedPorts: i.exposed(), Labels: i.labels("v1.2.3"),
	}
	if diff := cmp.Diff(want, c.Config); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
	if c.Architecture != arch || c.OS != "linux" || !c.Created.IsZero() && c.Created.Unix() != 0 {
		t.Errorf("image is %s/%s, created %v", c.OS, c.Architecture, c.Created)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	var have []file
	for _, l := range layers {
		r, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		have = append(have, entries(t, r, arch)...)
	}
	var files []file
	for _, f := range i.files {
		files = append(files, file{path: f.path, capability: f.capability})
	}
	if diff := cmp.Diff(files, have, cmp.AllowUnexported(file{})); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

// entries reads a layer; each of its files has to be a static program of arch.
func entries(t *testing.T, layer io.Reader, arch string) (files []file) {
	t.Helper()
	machine := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[arch]
	for r := tar.NewReader(layer); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.Mode != 0o755 || h.ModTime.Unix() != 0 {
			t.Errorf("%s: owner %d:%d, mode %o, time %v", h.Name, h.Uid, h.Gid, h.Mode, h.ModTime)
		}
		e, err := elf.NewFile(bytes.NewReader(content))
		if err != nil {
			t.Fatalf("%s: %v", h.Name, err)
		}
		if e.Machine != machine || e.Section(".interp") != nil {
			t.Errorf("%s is for %v, interpreter: %t", h.Name, e.Machine, e.Section(".interp") != nil)
		}
		files = append(files, file{path: "/" + h.Name, capability: h.PAXRecords["SCHILY.xattr.security.capability"]})
	}
}

func checkLayout(t *testing.T, dir string, i image, arches []string) {
	t.Helper()
	top, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := top.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	index, err := top.ImageIndex(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	if m, err = index.IndexManifest(); err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, d := range m.Manifests {
		have = append(have, d.Platform.Architecture)
		img, err := index.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		checkImage(t, img, i, d.Platform.Architecture)
	}
	if diff := cmp.Diff(arches, have); diff != "" {
		t.Errorf("architectures (-want +got):\n%s", diff)
	}
}

// checkReproducible builds from another directory: every byte of every archive
// and layout is the same as in out.
func checkReproducible(t *testing.T, out string, args []string) {
	t.Helper()
	elsewhere := filepath.Join(t.TempDir(), "src")
	for _, dir := range []string{"go.mod", "go.sum", "internal", "plugin", "proxy", "echo-server", "install"} {
		if err := os.MkdirAll(elsewhere, 0o755); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("cp", "-a", filepath.Join("../..", dir), elsewhere).CombinedOutput(); err != nil {
			t.Fatalf("cp: %v\n%s", err, out)
		}
	}
	want, got := digests(t, out), digests(t, build(t, elsewhere, args...))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("two builds differ:\n%s", diff)
	}
	if len(want) < 20 {
		t.Errorf("only %d files", len(want))
	}
}

// digests are those of all files in a directory.
func digests(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		all[strings.TrimPrefix(path, dir)] = digest(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestFileCapability unpacks the sidecar with GNU tar, which knows nothing of
// us, and asks libcap what the file may do.
func TestFileCapability(t *testing.T) {
	for _, program := range []string{"tar", "getcap"} {
		if _, err := exec.LookPath(program); err != nil || os.Getuid() != 0 {
			if os.Getenv("CI") != "" {
				t.Fatalf("needs root and %s", program)
			}
			t.Skipf("needs root and %s", program)
		}
	}
	l, err := layer(images[0].files[0], []byte("#!"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := l.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.Command("tar", "--xattrs", "--xattrs-include=*", "-xf", "-", "-C", dir)
	cmd.Stdin = r
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	out, err := exec.Command("getcap", filepath.Join(dir, "tproxy-proxy")).CombinedOutput()
	if err != nil {
		t.Fatalf("getcap: %v\n%s", err, out)
	}
	if got := strings.TrimSpace(strings.TrimPrefix(string(out), filepath.Join(dir, "tproxy-proxy"))); got != "cap_net_raw=p" {
		t.Errorf("capability %q, want cap_net_raw=p", got)
	}
}

func TestOnly(t *testing.T) {
	out := build(t, "../..", "-arch", "amd64", "echo-server")
	for archive, want := range map[string]bool{"echo-server-amd64.tar": true, "tproxy-cni-amd64.tar": false} {
		if _, err := os.Stat(filepath.Join(out, archive)); (err == nil) != want {
			t.Errorf("%s: %v", archive, err)
		}
	}
	if err := run([]string{"-source", "../..", "-out", out, "nginx"}, io.Discard); err == nil {
		t.Error("an unknown image was built")
	}
}

func TestReference(t *testing.T) {
	for given, want := range map[string]string{
		"":                   "index.docker.io/library/tproxy-cni:latest",
		"v1":                 "index.docker.io/library/tproxy-cni:v1",
		"mine:v2":            "index.docker.io/library/mine:v2",
		"localhost:5001/a/b": "localhost:5001/a/b:latest",
	} {
		got, err := reference("tproxy-cni", given)
		if err != nil {
			t.Error(err)
			continue
		}
		if got.Name() != want {
			t.Errorf("reference(%q) = %s, want %s", given, got.Name(), want)
		}
	}
	if _, err := reference("tproxy-cni", "no spaces"); !errors.As(err, new(*name.ErrBadName)) {
		t.Errorf("a bad name gave %v", err)
	}
}
