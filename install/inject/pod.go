package inject

import (
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"go.yaml.in/yaml/v3"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// templates says where an object has its pod, by group and kind. A kind of the
// same name in another group is another thing.
var templates = map[string][]string{
	"/Pod":                   {},
	"/PodTemplate":           {"template"},
	"/ReplicationController": {"spec", "template"},
	"apps/Deployment":        {"spec", "template"},
	"apps/StatefulSet":       {"spec", "template"},
	"apps/DaemonSet":         {"spec", "template"},
	"apps/ReplicaSet":        {"spec", "template"},
	"batch/Job":              {"spec", "template"},
	"batch/CronJob":          {"spec", "jobTemplate", "spec", "template"},
}

// object adds the sidecar to one object or, in a List, to each.
func object(n *yaml.Node, o Options) (changed bool, err error) {
	n = resolve(n)
	kind := text(n, "kind")
	if items := get(n, "items"); kind == "List" && items != nil {
		var faults []error
		for _, item := range items.Content {
			c, err := object(item, o)
			changed = changed || c
			faults = append(faults, err)
		}
		return changed, errors.Join(faults...)
	}
	path, ok := templates[group(text(n, "apiVersion"))+"/"+kind]
	if !ok {
		return false, nil
	}
	pod := n
	for _, key := range path {
		pod = get(pod, key)
	}
	if get(pod, "spec", "containers") == nil {
		return false, fmt.Errorf("%s %s: no containers", kind, text(n, "metadata", "name"))
	}
	if changed, err = podTemplate(pod, o); err != nil {
		return false, fmt.Errorf("%s %s: %w", kind, text(n, "metadata", "name"), err)
	}
	return changed, nil
}

// podTemplate adds the sidecar and the annotation that asks the plugin for it.
func podTemplate(pod *yaml.Node, o Options) (changed bool, err error) {
	spec := get(pod, "spec")
	for _, list := range []string{"initContainers", "containers"} {
		if named(get(spec, list), Container) {
			return false, nil
		}
	}
	s, err := settingsOf(pod, o)
	if err != nil || s.mode == contract.ModeNone {
		return false, err
	}
	if err := fits(spec, s); err != nil {
		return false, err
	}
	container, err := s.container()
	if err != nil {
		return false, err
	}
	// First of the init containers: up before, and down after, all others.
	list := get(spec, "initContainers")
	if list == nil {
		list = &yaml.Node{Kind: yaml.SequenceNode}
		if err := put(spec, list, "initContainers"); err != nil {
			return false, err
		}
	}
	if list.Kind != yaml.SequenceNode {
		*list = yaml.Node{Kind: yaml.SequenceNode} // `initContainers:` with nothing
	}
	if len(list.Content) == 0 {
		list.Style &^= yaml.FlowStyle // `initContainers: []`
	}
	list.Content = slices.Insert(list.Content, 0, container)
	mode := &yaml.Node{Kind: yaml.ScalarNode, Value: s.mode}
	return true, put(pod, mode, "metadata", "annotations", contract.AnnotationPrefix+"mode")
}

// settings are what the pod says of its sidecar.
type settings struct {
	mode, image                    string
	proxyPort, adminPort, proxyUID int
}

func settingsOf(pod *yaml.Node, o Options) (settings, error) {
	s := settings{
		mode: contract.ModeNAT, image: DefaultImage,
		proxyPort: contract.ProxyPort, adminPort: contract.AdminPort, proxyUID: contract.ProxyUID,
	}
	if o.Image != "" {
		s.image = o.Image
	}
	var faults []error
	for _, mode := range []struct {
		from, value string
		allowed     []string
	}{
		{"the default mode", o.Mode, []string{contract.ModeNAT, contract.ModeTProxy}},
		{"annotation " + contract.AnnotationPrefix + "mode", annotation(pod, "mode"), []string{contract.ModeNAT, contract.ModeTProxy, contract.ModeNone}},
		{"label " + Label, text(pod, "metadata", "labels", Label), []string{contract.ModeNAT, contract.ModeTProxy}},
	} {
		if mode.value == "" {
			continue
		}
		if !slices.Contains(mode.allowed, mode.value) {
			faults = append(faults, fmt.Errorf("%s %q: want one of %q", mode.from, mode.value, mode.allowed))
		}
		s.mode = mode.value
	}
	for _, number := range []struct {
		name     string
		low, top int
		to       *int
	}{
		{"proxy-port", 1, 65535, &s.proxyPort},
		{"admin-port", 1, 65535, &s.adminPort},
		{"proxy-uid", 1, 1<<31 - 1, &s.proxyUID}, // what Kubernetes admits as runAsUser
	} {
		value := annotation(pod, number.name)
		if value == "" {
			continue
		}
		n, err := strconv.Atoi(value)
		if err != nil || n < number.low || n > number.top {
			faults = append(faults, fmt.Errorf("annotation %s%s %q: want %d-%d", contract.AnnotationPrefix, number.name, value, number.low, number.top))
		}
		*number.to = n
	}
	return s, errors.Join(faults...)
}

// fits tells why the sidecar could not work in the pod.
func fits(spec *yaml.Node, s settings) error {
	var faults []error
	if text(spec, "hostNetwork") == "true" {
		faults = append(faults, fmt.Errorf("hostNetwork: the pod has no network of its own; exempt it by the annotation %smode: none", contract.AnnotationPrefix))
	}
	uid := strconv.Itoa(s.proxyUID)
	for _, list := range []string{"initContainers", "containers"} {
		for _, c := range elements(get(spec, list)) {
			user := text(c, "securityContext", "runAsUser")
			if user == "" {
				user = text(spec, "securityContext", "runAsUser")
			}
			if user == uid {
				faults = append(faults, fmt.Errorf("container %s runs as %s, the sidecar's user, which alone may use a client's address", text(c, "name"), uid))
			}
			for _, p := range elements(get(c, "ports")) {
				for name, own := range map[string]int{"proxy-port": s.proxyPort, "admin-port": s.adminPort} {
					if text(p, "containerPort") == strconv.Itoa(own) {
						faults = append(faults, fmt.Errorf("container %s has port %d, the sidecar's: choose another by the annotation %s%s",
							text(c, "name"), own, contract.AnnotationPrefix, name))
					}
				}
			}
		}
	}
	return errors.Join(faults...)
}

//go:embed sidecar.yaml
var sidecar []byte

// container is the sidecar's definition for s.
func (s settings) container() (*yaml.Node, error) {
	var root yaml.Node
	if err := yaml.Unmarshal(sidecar, &root); err != nil {
		return nil, fmt.Errorf("sidecar.yaml: %w", err)
	}
	c := root.Content[0]
	c.HeadComment, c.Content[0].HeadComment = "", "" // they speak of the file
	get(c, "image").Value = s.image
	args := get(c, "args")
	args.Content[0].Value = "--mode=" + s.mode
	for _, port := range []struct {
		flag          string
		value, preset int
	}{
		{"--addr=:", s.proxyPort, contract.ProxyPort},
		{"--admin=:", s.adminPort, contract.AdminPort},
	} {
		if port.value != port.preset {
			args.Content = append(args.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: port.flag + strconv.Itoa(port.value)})
		}
	}
	get(c, "ports").Content[0].Content[3].Value = strconv.Itoa(s.adminPort)
	security := get(c, "securityContext")
	get(security, "runAsUser").Value = strconv.Itoa(s.proxyUID)
	get(security, "runAsGroup").Value = strconv.Itoa(s.proxyUID)
	if s.mode == contract.ModeTProxy {
		// The runtimes' default set has NET_RAW, and Pod Security baseline
		// admits it only as such.
		remove(security, "capabilities")
	}
	return c, nil
}
