// Command release makes what a release consists of, in --out:
//
//	tproxy-cni-VERSION-linux-ARCH.tar.gz  the programs and the licence
//	IMAGE-VERSION-ARCH.tar                a docker archive for `docker load`, `ctr images import` and the like
//	IMAGE-VERSION.oci.tar                 the OCI layout of all architectures, for `skopeo copy --all oci-archive:…`
//	tproxy-cni-VERSION.tgz                the chart (its version has no "v")
//	ACTION-DISTRIBUTION.yaml              install, repair and uninstall, for `kubectl apply -f`
//	inject.yaml, deploy-*.yaml            the admission policy and the example pods
//	monitoring.yaml                       PodMonitors, alerts and dashboard for the Prometheus operator
//	rules.yaml, dashboard.json            the alerts and the dashboard alone
//	tproxy-cni-VERSION.cdx.json           the SBOM (CycloneDX) of the programs
//	SHA256SUMS                            of all the others
//
// The manifests, the chart and the archives name the images
// REGISTRY/IMAGE:VERSION. With --manifests it writes only the manifests, which name the
// images that -tproxy-cni and -echo-server say: of images that `make images` has built.
// It needs no network (with the modules in Go's cache)
// and no container engine. The same sources, version, registry and Go release
// give the same bytes. It is a module of its own, so that what it is made of
// never becomes part of the product.
package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"golang.org/x/mod/semver"

	"github.com/tproxy-cni/tproxy-cni/internal/programs"
)

// arches are the architectures of a release, as Go names them; images what
// k8s/images builds.
var (
	arches = []string{"amd64", "arm64"}
	images = []string{"tproxy-cni", "echo-server"}
)

// ours are the names of the programs of this repository.
func ours() (names []string) {
	for _, p := range programs.All() {
		if p.Ours() {
			names = append(names, p.Name)
		}
	}
	return names
}

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// release is one run.
type release struct {
	source   string // the repository
	version  string // with the leading v
	registry string // where the images will be
	built    string // what k8s/images has built: archives, layouts and, below .bin/ARCH, programs
	dir      string // the files so far

	names map[string]string // of images, where they are not the released ones
}

func run(args []string, stdout io.Writer) error {
	fs := flag.NewFlagSet("release", flag.ContinueOnError)
	r := release{names: map[string]string{}}
	fs.StringVar(&r.source, "source", "../..", "`directory` of the repository")
	fs.StringVar(&r.version, "version", "", "the release's `version`, such as v0.1.0")
	fs.StringVar(&r.registry, "registry", "ghcr.io/tproxy-cni", "`prefix` of the images' names")
	out := fs.String("out", "../../dist/release", "`directory` for the files; a release that is there already is replaced")
	manifests := fs.Bool("manifests", false, "write only the manifests")
	for _, i := range images {
		fs.Func(i, "with --manifests: the image's `tag`, or its whole reference", func(s string) error {
			if r.names[i] = s; !strings.ContainsAny(s, ":/") {
				r.names[i] = i + ":" + s
			}
			return nil
		})
	}
	if err := fs.Parse(args); err != nil {
		return err
	}
	if !*manifests && len(r.names) > 0 {
		return errors.New("a release's images are named by its version: give them names with --manifests only")
	}
	if !*manifests && (semver.Canonical(r.version) != r.version || r.version == "") {
		return fmt.Errorf("version %q: want a semantic version such as v0.1.0", r.version)
	}
	for _, image := range images {
		strict := name.StrictValidation
		if r.names[image] != "" { // an image of the node's own may have no registry
			strict = name.WeakValidation
		}
		if _, err := name.NewTag(r.image(image), strict); err != nil {
			return fmt.Errorf("registry %q, image %q: %w", r.registry, r.image(image), err)
		}
	}
	if err := replaceable(*out); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "release-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	r.built = filepath.Join(work, "built")
	// Beside the final place, so that one rename puts all files there.
	if err := os.MkdirAll(filepath.Dir(*out), 0o755); err != nil {
		return err
	}
	if r.dir, err = os.MkdirTemp(filepath.Dir(*out), ".release-"); err != nil {
		return err
	}
	defer os.RemoveAll(r.dir)
	steps := r.all()
	if *manifests {
		steps = slices.DeleteFunc(steps, func(s step) bool { return s.name != "manifests" && s.name != "checksums" })
	}
	if err := do(steps); err != nil {
		return err
	}
	if err := r.put(*out); err != nil {
		return err
	}
	sums, err := os.ReadFile(filepath.Join(*out, sumsFile))
	if err == nil {
		_, err = stdout.Write(sums)
	}
	return err
}

// step writes files into release.dir.
type step struct {
	name string
	do   func() error
}

// all are the steps of a release, in their order.
func (r release) all() []step {
	return []step{
		{"images", r.buildImages},
		{"programs", r.archivePrograms},
		{"image archives", r.archiveImages},
		{"chart", r.chart},
		{"manifests", r.manifests},
		{"SBOM", r.sbom},
		{"checksums", r.sums},
	}
}

func do(steps []step) error {
	for _, s := range steps {
		if err := s.do(); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// image is the full name under which an image is released, or was built.
func (r release) image(image string) string {
	return cmp.Or(r.names[image], r.registry+"/"+image+":"+r.version)
}

// program is where a built program is.
func (r release) program(program, arch string) string {
	return filepath.Join(r.built, ".bin", arch, program)
}

// buildImages has k8s/images build programs and images.
func (r release) buildImages() error {
	source, err := filepath.Abs(r.source)
	if err != nil {
		return err
	}
	args := []string{"run", ".", "-source", source, "-out", r.built, "-version", r.version, "-arch", strings.Join(arches, ",")}
	for _, i := range images {
		args = append(args, "-"+i, r.image(i))
	}
	cmd := exec.Command("go", args...)
	cmd.Dir = filepath.Join(source, "k8s/images")
	cmd.Env = append(os.Environ(), "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// put moves the files to dir. A release that is there is moved aside first.
func (r release) put(dir string) error {
	if err := os.Chmod(r.dir, 0o755); err != nil {
		return err
	}
	old, err := os.MkdirTemp(filepath.Dir(dir), ".release-old-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(old)
	aside := filepath.Join(old, "release")
	if err := os.Rename(dir, aside); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Rename(r.dir, dir); err != nil {
		_ = os.Rename(aside, dir)
		return err
	}
	return nil
}

// replaceable refuses a directory that holds anything but a release: its sums and
// the files that they name.
func replaceable(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	sums, err := os.ReadFile(filepath.Join(dir, sumsFile))
	if err != nil {
		return fmt.Errorf("%s is not empty and has no %s: not a release, so it is not replaced", dir, sumsFile)
	}
	ours := map[string]bool{sumsFile: true}
	for line := range strings.Lines(string(sums)) {
		if _, name, ok := strings.Cut(strings.TrimSpace(line), "  "); ok {
			ours[name] = true
		}
	}
	for _, e := range entries {
		if !ours[e.Name()] {
			return fmt.Errorf("%s is not replaced: %s is not in its %s", dir, e.Name(), sumsFile)
		}
	}
	return nil
}
