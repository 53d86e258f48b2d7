package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// distributions are those of docs/PLATFORMS.md; k8s/test compares them with the page.
var distributions = []string{
	"aks", "bottlerocket", "eks", "gke", "k0s", "k3d", "k3s", "kind", "kubeadm", "microk8s", "openshift", "rke2", "talos",
}

const (
	version  = "v1.2.3-rc.1"
	registry = "example.org/here"
)

// TestRelease makes a release twice, as `make release` does but with nothing
// except Go within reach, and reads all of it back.
func TestRelease(t *testing.T) {
	offline(t)
	dir, again := filepath.Join(t.TempDir(), "release"), filepath.Join(t.TempDir(), "release")
	for _, out := range []string{dir, again} {
		if err := run([]string{"-version", version, "-registry", registry, "-out", out}, io.Discard); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(digests(t, dir), digests(t, again)); diff != "" {
		t.Errorf("two releases differ:\n%s", diff)
	}
	t.Run("files", func(t *testing.T) { checkNames(t, dir) })
	t.Run("checksums", func(t *testing.T) { checkSums(t, dir) })
	for _, arch := range arches {
		t.Run("programs-"+arch, func(t *testing.T) { checkPrograms(t, dir, arch) })
	}
	for _, image := range images {
		t.Run("image-"+image, func(t *testing.T) { checkImages(t, dir, image) })
	}
	t.Run("manifests", func(t *testing.T) { checkManifests(t, dir) })
	t.Run("chart", func(t *testing.T) { checkChart(t, dir) })
	t.Run("sbom", func(t *testing.T) { checkSBOM(t, dir) })
}

// offline leaves nothing in PATH but Go, and no proxy to fetch modules from.
func offline(t *testing.T) {
	t.Helper()
	goProgram, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", filepath.Dir(goProgram))
	if filepath.Dir(goProgram) == "/usr/bin" { // a distribution's Go has all else beside it
		bin := t.TempDir()
		if err := os.Symlink(goProgram, filepath.Join(bin, "go")); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", bin)
	}
	t.Setenv("GOPROXY", "off")
}

// checkNames: nothing is missing and nothing else is there.
func checkNames(t *testing.T, dir string) {
	want := []string{
		"SHA256SUMS", "monitoring.yaml", "rules.yaml", "dashboard.json", "inject.yaml", "deploy-curl.yaml", "deploy-init.yaml", "deploy-nat.yaml", "deploy-tproxy.yaml",
		"tproxy-cni-1.2.3-rc.1.tgz", "tproxy-cni-v1.2.3-rc.1.cdx.json",
		"tproxy-cni-v1.2.3-rc.1-linux-amd64.tar.gz", "tproxy-cni-v1.2.3-rc.1-linux-arm64.tar.gz",
		"tproxy-cni-v1.2.3-rc.1-amd64.tar", "tproxy-cni-v1.2.3-rc.1-arm64.tar", "tproxy-cni-v1.2.3-rc.1.oci.tar",
		"echo-server-v1.2.3-rc.1-amd64.tar", "echo-server-v1.2.3-rc.1-arm64.tar", "echo-server-v1.2.3-rc.1.oci.tar",
	}
	for _, action := range []string{"install", "repair", "uninstall"} {
		for _, d := range distributions {
			want = append(want, action+"-"+d+".yaml")
		}
	}
	slices.Sort(want)
	var have []string
	for name := range digests(t, dir) {
		have = append(have, name)
	}
	slices.Sort(have)
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

// checkSums: SHA256SUMS has every other file once, in the form of sha256sum(1).
func checkSums(t *testing.T, dir string) {
	want := digests(t, dir)
	delete(want, sumsFile)
	have := map[string]string{}
	for line := range strings.Lines(string(read(t, filepath.Join(dir, sumsFile)))) {
		sum, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		if _, twice := have[name]; !ok || twice {
			t.Errorf("line %q", line)
		}
		have[name] = sum
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("checksums (-files +%s):\n%s", sumsFile, diff)
	}
}

// checkPrograms: static programs of the architecture, which know their version.
func checkPrograms(t *testing.T, dir, arch string) {
	top := "tproxy-cni-" + version + "-linux-" + arch
	z, err := gzip.NewReader(bytes.NewReader(read(t, filepath.Join(dir, top+".tar.gz"))))
	if err != nil {
		t.Fatal(err)
	}
	content := unpack(t, z)
	if !bytes.Contains(content[top+"/LICENSE"], []byte("Apache License")) {
		t.Error("no licence")
	}
	delete(content, top+"/LICENSE")
	if len(content) != len(ours()) {
		t.Errorf("%d programs, want %d", len(content), len(ours()))
	}
	machine := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[arch]
	for _, p := range ours() {
		e, err := elf.NewFile(bytes.NewReader(content[top+"/"+p]))
		if err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		if e.Machine != machine || e.Section(".interp") != nil {
			t.Errorf("%s is for %v, interpreter: %t", p, e.Machine, e.Section(".interp") != nil)
		}
		if arch != runtime.GOARCH {
			continue
		}
		path := filepath.Join(t.TempDir(), p)
		if err := os.WriteFile(path, content[top+"/"+p], 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(path, "--version")
		if p == "tproxy-cni" {
			cmd = exec.Command(path) // without CNI_COMMAND it prints its version
		}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), version) {
			t.Errorf("%s: %v: %q does not name %s", cmd, err, out, version)
		}
		if p != "tproxy-install" {
			continue
		}
		inject := exec.Command(path, "inject")
		inject.Stdin = strings.NewReader("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers: [{name: a, image: a}]\n")
		if out, err := inject.CombinedOutput(); err != nil || !strings.Contains(string(out), "image: "+registry+"/tproxy-cni:"+version) {
			t.Errorf("inject: %v\n%s", err, out)
		}
	}
}

// checkImages: the archives and the layout are valid, name the released image
// and hold the same images.
func checkImages(t *testing.T, dir, image string) {
	unpacked := t.TempDir()
	for name, content := range unpack(t, bytes.NewReader(read(t, filepath.Join(dir, image+"-"+version+".oci.tar")))) {
		path := filepath.Join(unpacked, filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	top, err := layout.ImageIndexFromPath(unpacked)
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
	inLayout := map[string]string{}
	for _, d := range m.Manifests {
		img, err := index.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		config, err := img.ConfigName()
		if err != nil {
			t.Fatal(err)
		}
		inLayout[d.Platform.Architecture] = config.String()
	}
	inArchives := map[string]string{}
	for _, arch := range arches {
		path := filepath.Join(dir, image+"-"+version+"-"+arch+".tar")
		img, err := tarball.ImageFromPath(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Image(img); err != nil {
			t.Error(err)
		}
		config, err := img.ConfigName()
		if err != nil {
			t.Fatal(err)
		}
		inArchives[arch] = config.String()
		manifest, err := tarball.LoadManifest(func() (io.ReadCloser, error) { return os.Open(path) })
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{registry + "/" + image + ":" + version}, manifest[0].RepoTags); diff != "" {
			t.Errorf("%s: tags (-want +got):\n%s", path, diff)
		}
	}
	if diff := cmp.Diff(inArchives, inLayout); diff != "" {
		t.Errorf("images (-archives +layout):\n%s", diff)
	}
}

// named are the images that a text names by one of our names.
var named = regexp.MustCompile(`[\w./:-]*\b(?:tproxy-cni|echo-server):[\w][\w.-]*`)

func TestRefused(t *testing.T) {
	foreign, mixed := t.TempDir(), t.TempDir()
	for _, dir := range []string{foreign, mixed} {
		if err := os.WriteFile(filepath.Join(dir, "thesis.txt"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(mixed, sumsFile), []byte("0123  other.iso\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"no version":    {nil, `version ""`},
		"a branch":      {[]string{"-version", "main"}, `version "main"`},
		"no patch":      {[]string{"-version", "v1.2"}, `version "v1.2"`},
		"build":         {[]string{"-version", "v1.2.3+a"}, `version "v1.2.3+a"`},
		"bad name":      {[]string{"-manifests", "-tproxy-cni", "no spaces"}, `image "tproxy-cni:no spaces"`},
		"named":         {[]string{"-version", version, "-tproxy-cni", "v1"}, "with --manifests only"},
		"no registry":   {[]string{"-version", version, "-registry", "Example Org"}, `registry "Example Org"`},
		"not a release": {[]string{"-version", version, "-out", foreign}, "not a release"},
		"more than one": {[]string{"-version", version, "-out", mixed}, "thesis.txt is not in its SHA256SUMS"},
	} {
		err := run(append([]string{"-out", filepath.Join(t.TempDir(), "out")}, tc.args...), io.Discard)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, dir := range []string{foreign, mixed} {
		if _, err := os.Stat(filepath.Join(dir, "thesis.txt")); err != nil {
			t.Error(err)
		}
	}
}

// TestManifests: of images that were built under other names, only the manifests, which
// name these; a new name changes the DaemonSet's pod template, which makes it roll out.
func TestManifests(t *testing.T) {
	out := filepath.Join(t.TempDir(), "manifests")
	for _, tag := range []string{"v1-2-gabcdef0", "v1-3-g0123456"} {
		if err := run([]string{"-manifests", "-version", tag, "-tproxy-cni", tag, "-echo-server", "example.org/a/echo:v8", "-out", out}, io.Discard); err != nil {
			t.Fatal(err)
		}
		for _, d := range distributions {
			template := daemonSet(t, string(read(t, filepath.Join(out, "install-"+d+".yaml"))))["spec"].(map[string]any)["template"]
			if text := fmt.Sprint(template); !strings.Contains(text, "image:tproxy-cni:"+tag+" ") {
				t.Errorf("%s: no image tproxy-cni:%s in %s", d, tag, text)
			}
		}
		for file, image := range map[string]string{"inject.yaml": "tproxy-cni:" + tag, "deploy-nat.yaml": "example.org/a/echo:v8"} {
			if text := string(read(t, filepath.Join(out, file))); !strings.Contains(text, "image: "+image+"\n") || strings.Contains(text, ":latest") {
				t.Errorf("%s does not name %s, or something latest", file, image)
			}
		}
	}
	if found, err := filepath.Glob(filepath.Join(out, "*.t*")); err != nil || len(found) > 0 {
		t.Errorf("more than manifests: %q, %v", found, err)
	}
}

// TestPin: an image that would stay at latest stops the release.
func TestPin(t *testing.T) {
	r := release{version: version, registry: registry}
	got, err := r.pin("image: tproxy-cni:latest # echo-server:latest, curlimages/curl:8\n")
	if want := "image: example.org/here/tproxy-cni:v1.2.3-rc.1 # example.org/here/echo-server:v1.2.3-rc.1, curlimages/curl:8\n"; err != nil || got != want {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := r.pin("image: nginx:latest\n"); err == nil {
		t.Error("nginx:latest was accepted")
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// unpack is the content of a tar by name.
func unpack(t *testing.T, archive io.Reader) map[string][]byte {
	t.Helper()
	content := map[string][]byte{}
	for r := tar.NewReader(archive); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return content
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.ModTime.Unix() != 0 || h.Typeflag != tar.TypeReg {
			t.Errorf("%s: owner %d:%d, time %v, type %c", h.Name, h.Uid, h.Gid, h.ModTime, h.Typeflag)
		}
		if content[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

// digests are the SHA-256 of all files in a directory, by name.
func digests(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := tree(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, e := range entries {
		all[e.name] = fmt.Sprintf("%x", sha256.Sum256(e.content))
	}
	return all
}
