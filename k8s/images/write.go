package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const module = "github.com/tproxy-cni/tproxy-cni/"

// compile builds the programs for arch into dir, under their names in the image.
// The installer's `inject` names the image tproxyCNI.
func compile(source, dir, arch, version, tproxyCNI string, files []file) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, f.path),
			"-trimpath", "-buildvcs=false", // neither where the sources lie nor the state of the checkout is in the binary
			"-ldflags", "-s -w -X "+module+"internal/version.Version="+version+" -X "+module+"install/inject.DefaultImage="+tproxyCNI, f.pkg)
		cmd.Dir = source
		// What else of the environment would change the output.
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch,
			"GOFLAGS=", "GOWORK=off", "GOAMD64=v1", "GOARM64=v8.0", "GOEXPERIMENT=", "GOFIPS140=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go build %s for %s: %w\n%s", f.pkg, arch, err, out)
		}
	}
	return nil
}

// layer is a layer with one program in it. The capability travels as a PAX
// record, in the form in which GNU tar, Docker, containerd and containers/storage
// read extended attributes.
func layer(f file, content []byte) (v1.Layer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	h := tar.Header{
		Name:    strings.TrimPrefix(f.path, "/"),
		Mode:    0o755,
		Size:    int64(len(content)),
		ModTime: epoch.Time,
		Format:  tar.FormatPAX,
	}
	if f.capability != "" {
		h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": f.capability}
	}
	if err := w.WriteHeader(&h); err != nil {
		return nil, err
	}
	if _, err := w.Write(content); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(
		func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil },
		tarball.WithMediaType(types.OCILayer))
}

// reference is an image's name and tag. What is given may be one part of it,
// as make's TPROXY_IMAGE=v1, or the whole, as TPROXY_IMAGE=example.org/a/b:v1.
func reference(image, given string) (name.Tag, error) {
	if !strings.ContainsAny(given, ":/") {
		given = image + ":" + cmp.Or(given, "latest")
	}
	return name.NewTag(given)
}

// writeArchive writes a docker archive; at path there is always a whole one.
func writeArchive(path string, ref name.Tag, img v1.Image) error {
	if err := tarball.WriteToFile(path+".new", ref, img); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// writeLayout writes the OCI layout of one image for all its architectures.
func writeLayout(dir string, ref name.Tag, all []v1.Image) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, img := range all {
		c, err := img.ConfigFile()
		if err != nil {
			return err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        img,
			Descriptor: v1.Descriptor{Platform: c.Platform()},
		})
	}
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	return l.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": ref.TagStr(),
	}))
}
