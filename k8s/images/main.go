// Command images builds the project's container images from nothing (no base
// image, no container engine, no registry) and writes them to --out:
//
//	NAME-ARCH.tar  a docker archive, which `docker load`, `k3d image import`,
//	               `kind load image-archive` and `ctr images import` take
//	NAME/          the OCI layout of all architectures, from which
//	               `skopeo copy --all` and `crane push --index` fill a registry
//
// Its arguments are the images' names; without any it builds all. The same
// sources, version and Go release give the same digests, in any directory and at
// any time. It is a module of its own, so that its dependencies never become part
// of the product.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

// config is what the command line says.
type config struct {
	source  string            // the repository
	out     string            // where the archives go
	version string            // for the programs and the label
	arches  []string          // as GOARCH
	tags    map[string]string // by an image's name: a tag, or a whole reference
	only    []string          // names of images; all if empty
}

func run(args []string, stdout io.Writer) error {
	fs := flag.NewFlagSet("images", flag.ContinueOnError)
	c := config{tags: map[string]string{}}
	fs.StringVar(&c.source, "source", "../..", "`directory` of the repository")
	fs.StringVar(&c.out, "out", "../../dist/images", "`directory` for the archives")
	fs.StringVar(&c.version, "version", "dev", "what the programs answer to --version")
	arches := fs.String("arch", "amd64,arm64", "`list` of architectures, as Go names them")
	for _, i := range images {
		fs.Func(i.name, "the image's `tag` (default latest), or its whole reference", func(s string) error {
			c.tags[i.name] = s
			return nil
		})
	}
	if err := fs.Parse(args); err != nil {
		return err
	}
	c.arches, c.only = strings.Split(*arches, ","), fs.Args()
	for _, name := range c.only {
		if !slices.ContainsFunc(images, func(i image) bool { return i.name == name }) {
			return fmt.Errorf("no image is named %q", name)
		}
	}
	return c.build(stdout)
}

// build compiles and writes the images for every architecture.
func (c config) build(stdout io.Writer) error {
	for _, i := range images {
		if len(c.only) > 0 && !slices.Contains(c.only, i.name) {
			continue
		}
		ref, err := reference(i.name, c.tags[i.name])
		if err != nil {
			return err
		}
		names, err := tags(i.name, c.tags[i.name], ref)
		if err != nil {
			return err
		}
		tproxyCNI, err := reference("tproxy-cni", c.tags["tproxy-cni"])
		if err != nil {
			return err
		}
		var all []v1.Image
		for _, arch := range c.arches {
			bin := filepath.Join(c.out, ".bin", arch)
			if err := compile(c.source, bin, arch, c.version, tproxyCNI.String(), i.files); err != nil {
				return err
			}
			img, err := i.assemble(bin, arch, c.version)
			if err != nil {
				return fmt.Errorf("image %s for %s: %w", i.name, arch, err)
			}
			path := filepath.Join(c.out, i.name+"-"+arch+".tar")
			if err := writeArchive(path, names, img); err != nil {
				return err
			}
			digest, err := img.Digest()
			if err != nil {
				return err
			}
			fmt.Fprintf(stdout, "%s  %s  %s\n", digest, ref, path)
			all = append(all, img)
		}
		if err := writeLayout(filepath.Join(c.out, i.name), ref, all); err != nil {
			return err
		}
	}
	return nil
}
