package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/programs"
)

// image is one image: our programs in the root directory and nothing else.
type image struct {
	name        string
	description string
	user        string // user:group; numeric, so that the kubelet can tell that it is not root
	entrypoint  string
	ports       []int
	files       []file
}

// file is one program of an image.
type file struct {
	path       string // in the image
	pkg        string // its Go package, from the repository's root
	capability string // the file's extended attribute security.capability; none if empty
}

// echoUID is the echo-server's user: not root, and not the sidecar's, which
// alone may use a foreign address.
const echoUID = 7090

// images are all images. The Dockerfile builds the same with a container engine;
// a test compares the two.
var images = []image{
	{
		name:        "tproxy-cni",
		description: "The sidecar, the CNI plugin and the plugin's installer",
		// The defaults are the sidecar's; the installer's manifest sets command and
		// user.
		user:       userGroup(contract.ProxyUID),
		entrypoint: "/tproxy-proxy",
		ports:      []int{contract.ProxyPort, contract.AdminPort},
		files: []file{
			// Permitted, not effective: so it also starts, without it, where all
			// capabilities are dropped. In tproxy mode the sidecar raises it.
			{"/tproxy-proxy", programs.Package("tproxy-proxy"), netRawPermitted},
			{"/tproxy-cni", programs.Package("tproxy-cni"), ""}, // beside the installer, which copies it to the node
			{"/tproxy-install", programs.Package("tproxy-install"), ""},
		},
	},
	{
		name:        "echo-server",
		description: "Answers each client with the address and port that it sees",
		user:        userGroup(echoUID),
		entrypoint:  "/echo-server",
		ports:       []int{contract.EchoPort},
		files:       []file{{"/echo-server", programs.Package("echo-server"), ""}},
	},
}

// netRawPermitted is cap_net_raw=p as a struct vfs_cap_data: revision 2, no
// effective flag, bit 13 of the permitted set; little-endian on every machine.
const netRawPermitted = "\x00\x00\x00\x02" + "\x00\x20\x00\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00"

// epoch is every time in an image, because the real one would differ from build
// to build.
var epoch = v1.Time{Time: time.Unix(0, 0).UTC()}

// assemble makes the image of the programs in dir.
func (i image) assemble(dir, arch, version string) (v1.Image, error) {
	base, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{
		Architecture: arch,
		OS:           "linux",
		Created:      epoch,
		RootFS:       v1.RootFS{Type: "layers"},
		Config: v1.Config{
			User:         i.user,
			Entrypoint:   []string{i.entrypoint},
			ExposedPorts: i.exposed(),
			Labels:       i.labels(version),
		},
	})
	if err != nil {
		return nil, err
	}
	// One layer a program: a change of one leaves the others' digests alone.
	var layers []mutate.Addendum
	for _, f := range i.files {
		content, err := os.ReadFile(filepath.Join(dir, f.path))
		if err != nil {
			return nil, err
		}
		l, err := layer(f, content)
		if err != nil {
			return nil, err
		}
		layers = append(layers, mutate.Addendum{
			Layer:   l,
			History: v1.History{Created: epoch, CreatedBy: "go build " + f.pkg},
		})
	}
	img, err := mutate.Append(base, layers...)
	if err != nil {
		return nil, err
	}
	return mutate.ConfigMediaType(mutate.MediaType(img, types.OCIManifestSchema1), types.OCIConfigJSON), nil
}

func (i image) labels(version string) map[string]string {
	const oci = "org.opencontainers.image."
	return map[string]string{
		oci + "title":       i.name,
		oci + "description": i.description,
		oci + "licenses":    "Apache-2.0",
		oci + "source":      "https://github.com/tproxy-cni/tproxy-cni",
		oci + "version":     version,
	}
}

func userGroup(id int) string { return fmt.Sprintf("%d:%d", id, id) }

func (i image) exposed() map[string]struct{} {
	ports := map[string]struct{}{}
	for _, p := range i.ports {
		ports[fmt.Sprintf("%d/tcp", p)] = struct{}{}
	}
	return ports
}
