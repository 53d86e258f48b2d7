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
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
	"github.com/tproxy-cni/tproxy-cni/internal/settings"
)

// templates says where an object has its pod, by group and kind. A kind of the
// same name in another group is a different one.
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
		if err := checkNotAlias(n, "items"); err != nil {
			return false, fmt.Errorf("kind List: %w", err)
		}
		var faults []error
		for i, item := range items.Content {
			if item.Kind == yaml.AliasNode {
				// It may be a List that has itself as an item.
				faults = append(faults, fmt.Errorf("kind List: item %d is an alias: replace it with its content", i+1))
				continue
			}
			c, err := object(item, o)
			changed = changed || c
			faults = append(faults, err)
		}
		return changed, errors.Join(faults...)
	}
	group := group(text(n, "apiVersion"))
	if item, isList := strings.CutSuffix(kind, "List"); isList && templates[group+"/"+item] != nil {
		return false, fmt.Errorf("%s: its items have no kind of their own: use kind: List", printable.Word(kind))
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
		return false, fmt.Errorf("%s %s: no containers", kind, printable.Word(text(n, "metadata", "name")))
	}
	if changed, err = podTemplate(pod, o); err != nil {
		return false, fmt.Errorf("%s %s: %w", kind, printable.Word(text(n, "metadata", "name")), err)
	}
	return changed, nil
}

// podTemplate adds the sidecar and the annotation that asks the plugin for it.
func podTemplate(pod *yaml.Node, o Options) (changed bool, err error) {
	spec := get(pod, "spec")
	// What two pods share would be changed for both, but annotated in one.
	if err := errors.Join(checkNotAlias(pod, "spec"), checkNotAlias(spec, "initContainers")); err != nil {
		return false, err
	}
	for _, list := range []string{"initContainers", "containers"} {
		if named(get(spec, list), Container) || named(get(spec, list), o.Sidecar.name()) {
			return false, nil
		}
	}
	s, err := choose(pod, o)
	if err != nil || s.mode == contract.ModeNone {
		return false, err
	}
	containers, volumes, err := s.parts(o)
	if err == nil {
		err = fits(spec, s)
	}
	if err == nil {
		err = addVolumes(spec, volumes)
	}
	if err != nil {
		return false, err
	}
	// The first init container starts before, and stops after, all others.
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
	list.Content = slices.Insert(list.Content, 0, containers...)
	mode := &yaml.Node{Kind: yaml.ScalarNode, Value: s.mode}
	return true, put(pod, mode, "metadata", "annotations", contract.AnnotationPrefix+"mode")
}

// choice is the sidecar that the pod and the options ask for.
type choice struct {
	mode, image                    string
	proxyPort, adminPort, proxyUID int
	flags                          []string // that annotations ask for
}

// choose reads the pod's annotations as the plugin does.
func choose(pod *yaml.Node, o Options) (choice, error) {
	s := settings.New()
	s.Flags(map[string]string{"mode": cmp.Or(o.Mode, contract.ModeNAT)})
	s.Annotations(annotations(pod))
	conf, err := s.Config("", nil)
	c := choice{string(conf.Mode), cmp.Or(o.Image, DefaultImage), int(conf.ProxyPort), int(conf.AdminPort), int(conf.ProxyUID), s.SidecarFlags()}
	if !strings.ContainsAny(c.image, ":/@") {
		c.image = imageName + ":" + c.image
	}
	faults := []error{err}
	if o.Mode == contract.ModeNone {
		faults = append(faults, errors.New("the default mode must not be none"))
	}
	if c.proxyUID > math.MaxInt32 {
		faults = append(faults, fmt.Errorf("annotation %sproxy-uid: Kubernetes allows runAsUser up to %d", contract.AnnotationPrefix, math.MaxInt32))
	}
	switch label := text(pod, "metadata", "labels", Label); label {
	case "":
	case contract.ModeNAT, contract.ModeTProxy:
		c.mode = label
	default:
		faults = append(faults, fmt.Errorf("label %s %s: want %s or %s", Label, printable.Quote(label), contract.ModeNAT, contract.ModeTProxy))
	}
	return c, errors.Join(faults...)
}

// fits returns why the sidecar could not work in the pod, or nil.
func fits(spec *yaml.Node, s choice) error {
	var faults []error
	if text(spec, "os", "name") == "windows" || text(spec, "nodeSelector", "kubernetes.io/os") == "windows" {
		faults = append(faults, errors.New("a Windows pod: the sidecar runs on Linux only"))
	}
	if text(spec, "hostNetwork") == "true" {
		faults = append(faults, fmt.Errorf("hostNetwork: the pod has no network of its own; exempt it with the annotation %smode: none", contract.AnnotationPrefix))
	}
	uid := strconv.Itoa(s.proxyUID)
	for _, list := range []string{"initContainers", "containers"} {
		for _, c := range elements(get(spec, list)) {
			user := text(c, "securityContext", "runAsUser")
			if user == "" {
				user = text(spec, "securityContext", "runAsUser")
			}
			if user == uid {
				faults = append(faults, fmt.Errorf("container %s runs as %s, the sidecar's user: only the sidecar may use a client's address", printable.Word(text(c, "name")), uid))
			}
			for _, p := range elements(get(c, "ports")) {
				for name, sidecars := range map[string]int{"proxy-port": s.proxyPort, "admin-port": s.adminPort} {
					if text(p, "containerPort") == strconv.Itoa(sidecars) {
						faults = append(faults, fmt.Errorf("container %s has port %d, which the sidecar uses: set another with the annotation %s%s",
							printable.Word(text(c, "name")), sidecars, contract.AnnotationPrefix, name))
					}
				}
			}
		}
	}
	return errors.Join(faults...)
}

// parts are the containers to add, the last of which is the proxy, and their volumes.
func (s choice) parts(o Options) (containers, volumes []*yaml.Node, err error) {
	if o.Sidecar != nil {
		return o.Sidecar.parts(s)
	}
	container, err := s.container()
	return []*yaml.Node{container}, nil, err
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
	c.HeadComment, c.Content[0].HeadComment = "", "" // comments about the file
	get(c, "image").Value = s.image
	args, ready := get(c, "args"), get(c, "startupProbe", "exec", "command")
	args.Content[0].Value = "--mode=" + s.mode
	flag := func(list *yaml.Node, name string, value, preset int) {
		if value != preset {
			list.Content = append(list.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: "--" + name + "=:" + strconv.Itoa(value)})
		}
	}
	flag(args, "addr", s.proxyPort, contract.ProxyPort)
	flag(args, "admin", s.adminPort, contract.AdminPort)
	flag(ready, "admin", s.adminPort, contract.AdminPort)
	for _, flag := range s.flags {
		args.Content = append(args.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: flag})
	}
	get(c, "ports").Content[0].Content[3].Value = strconv.Itoa(s.adminPort)
	security := get(c, "securityContext")
	get(security, "runAsUser").Value = strconv.Itoa(s.proxyUID)
	get(security, "runAsGroup").Value = strconv.Itoa(s.proxyUID)
	if s.mode == contract.ModeTProxy {
		// NET_RAW is in the runtimes' default set, and Pod Security baseline
		// allows it only as part of that.
		remove(security, "capabilities")
	}
	return c, nil
}
