package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
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

// tags are the names that an archive gives an image. One that was given as a tag only is
// latest, too, as the manifests in the sources name it.
func tags(image, given string, ref name.Tag) ([]name.Tag, error) {
	if strings.ContainsAny(given, ":/") || ref.TagStr() == "latest" {
		return []name.Tag{ref}, nil
	}
	latest, err := reference(image, "")
	return []name.Tag{latest, ref}, err
}

// writeArchive writes a docker archive; at path there is always a whole one.
func writeArchive(path string, refs []name.Tag, img v1.Image) error {
	var archive bytes.Buffer
	if err := tarball.Write(refs[0], img, &archive); err != nil {
		return err
	}
	f, err := os.Create(path + ".new")
	if err != nil {
		return err
	}
	if err := errors.Join(nameAll(f, &archive, refs), f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// nameAll copies an archive of one image and names the image by all refs. (The library
// writes several names of one image in a random order.)
func nameAll(w io.Writer, archive io.Reader, refs []name.Tag) error {
	out := tar.NewWriter(w)
	for r := tar.NewReader(archive); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out.Close()
		}
		if err != nil {
			return err
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if h.Name == "manifest.json" {
			var m tarball.Manifest
			if err := json.Unmarshal(content, &m); err != nil {
				return err
			}
			m[0].RepoTags = nil
			for _, ref := range refs {
				m[0].RepoTags = append(m[0].RepoTags, ref.String())
			}
			if content, err = json.Marshal(m); err != nil {
				return err
			}
			h.Size = int64(len(content))
		}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if _, err := out.Write(content); err != nil {
			return err
		}
	}
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
