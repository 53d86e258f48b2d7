package inject

import (
	"cmp"
	_ "embed"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/plugin/settings"
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
	group := group(text(n, "apiVersion"))
	if item, isList := strings.CutSuffix(kind, "List"); isList && templates[group+"/"+item] != nil {
		return false, fmt.Errorf("%s: its items do not say what they are: write kind: List", kind)
	}
	path, ok := templates[group+"/"+kind]
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
	// What two pods share would be changed for both, and annotated in one.
	if err := errors.Join(own(pod, "spec"), own(spec, "initContainers")); err != nil {
		return false, err
	}
	for _, list := range []string{"initContainers", "containers"} {
		if named(get(spec, list), Container) {
			return false, nil
		}
	}
	s, err := choose(pod, o)
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

// choice is what the pod and the options say of its sidecar.
type choice struct {
	mode, image                    string
	proxyPort, adminPort, proxyUID int
}

// choose reads the pod's annotations as the plugin does.
func choose(pod *yaml.Node, o Options) (choice, error) {
	s := settings.New()
	s.Flags(map[string]string{"mode": cmp.Or(o.Mode, contract.ModeNAT)})
	s.Annotations(annotations(pod))
	conf, err := s.Config("", nil)
	c := choice{conf.Mode, cmp.Or(o.Image, DefaultImage), int(conf.ProxyPort), int(conf.AdminPort), int(conf.ProxyUID)}
	if !strings.ContainsAny(c.image, ":/@") {
		c.image = imageName + ":" + c.image
	}
	faults := []error{err}
	if o.Mode == contract.ModeNone {
		faults = append(faults, errors.New("the default mode is none"))
	}
	if c.proxyUID > math.MaxInt32 {
		faults = append(faults, fmt.Errorf("annotation %sproxy-uid: Kubernetes admits runAsUser up to %d", contract.AnnotationPrefix, math.MaxInt32))
	}
	switch label := text(pod, "metadata", "labels", Label); label {
	case "":
	case contract.ModeNAT, contract.ModeTProxy:
		c.mode = label
	default:
		faults = append(faults, fmt.Errorf("label %s %q: want %s or %s", Label, label, contract.ModeNAT, contract.ModeTProxy))
	}
	return c, errors.Join(faults...)
}

// fits tells why the sidecar could not work in the pod.
func fits(spec *yaml.Node, s choice) error {
	var faults []error
	if text(spec, "os", "name") == "windows" || text(spec, "nodeSelector", "kubernetes.io/os") == "windows" {
		faults = append(faults, errors.New("a Windows pod: the sidecar is for Linux"))
	}
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
func (s choice) container() (*yaml.Node, error) {
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
