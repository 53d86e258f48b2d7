package inject

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// Sidecar is another proxy's, for Options: a document with a pod or a workload, of
// which the init containers and the volumes are taken, as the sidecar.yaml of each
// directory of k8s/proxies.
type Sidecar []byte

// parts returns copies of the containers, the last of which is the proxy, and of the
// volumes, as they are for s.
func (d Sidecar) parts(s choice) (containers, volumes []*yaml.Node, err error) {
	var root yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(d))
	if err := decoder.Decode(&root); err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, fmt.Errorf("the sidecar's file: %w", err)
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, nil, errors.New("the sidecar's file has more than one document")
	}
	if len(root.Content) == 0 {
		return nil, nil, errors.New("the sidecar's file is empty")
	}
	n := root.Content[0]
	path, ok := templates[group(text(n, "apiVersion"))+"/"+text(n, "kind")]
	if !ok {
		return nil, nil, fmt.Errorf("the sidecar's file is of kind %s: want a Pod or a Deployment, say", printable.Word(text(n, "kind")))
	}
	spec := get(n, append(slices.Clone(path), "spec")...)
	containers, volumes = elements(get(spec, "initContainers")), elements(get(spec, "volumes"))
	if len(containers) == 0 {
		return nil, nil, errors.New("the sidecar's file has no spec.initContainers")
	}
	for _, c := range containers {
		if text(c, "name") == "" || text(c, "image") == "" {
			return nil, nil, fmt.Errorf("the sidecar's file: container %s has no name or no image", printable.Quote(text(c, "name")))
		}
		s.fill(c)
	}
	if last := containers[len(containers)-1]; text(last, "restartPolicy") != "Always" {
		return nil, nil, fmt.Errorf("the sidecar's file: the last init container, %s, is the proxy and needs restartPolicy: Always", printable.Word(text(last, "name")))
	}
	return containers, volumes, nil
}

// fill writes the pod's choice into a container, where it says something else.
func (s choice) fill(c *yaml.Node) {
	if image := get(c, "image"); image.Value == imageName || strings.HasPrefix(image.Value, imageName+":") {
		image.Value = s.image
	}
	for _, key := range []string{"runAsUser", "runAsGroup"} {
		if id := get(c, "securityContext", key); id != nil {
			id.Value = strconv.Itoa(s.proxyUID)
		}
	}
	for _, list := range []string{"command", "args"} {
		for _, word := range elements(get(c, list)) {
			if strings.HasPrefix(word.Value, "--mode=") {
				word.Value = "--mode=" + s.mode
			}
		}
	}
}
