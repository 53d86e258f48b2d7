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

// choice is the sidecar that the pod and the options ask for.
type choice struct {
	mode, image                    string
	proxyPort, adminPort, proxyUID int
	flags                          []string // that annotations ask for
}

// choose reads the pod's annotations as the plugin does.
func choose(pod object, o Options) (choice, error) {
	annotations, faults := texts(pod, "annotations")
	labels, more := texts(pod, "labels")
	s := settings.New()
	s.Flags(map[string]string{"mode": cmp.Or(o.Mode, contract.ModeNAT)})
	s.Annotations(annotations)
	conf, err := s.Config("", nil)
	c := choice{string(conf.Mode), cmp.Or(o.Image, DefaultImage), int(conf.ProxyPort), int(conf.AdminPort), int(conf.ProxyUID), s.SidecarFlags()}
	if !strings.ContainsAny(c.image, ":/@") {
		c.image = imageName + ":" + c.image
	}
	faults = append(append(faults, more...), err)
	if o.Mode == contract.ModeNone {
		faults = append(faults, errors.New("the default mode must not be none"))
	}
	if c.proxyUID > math.MaxInt32 {
		faults = append(faults, fmt.Errorf("annotation %sproxy-uid: Kubernetes allows runAsUser up to %d", contract.AnnotationPrefix, math.MaxInt32))
	}
	switch label, ok := labels[Label]; {
	case !ok:
	case label == contract.ModeNAT, label == contract.ModeTProxy:
		c.mode = label
	default:
		faults = append(faults, fmt.Errorf("label %s %s: want %s or %s", Label, printable.Quote(label), contract.ModeNAT, contract.ModeTProxy))
	}
	return c, errors.Join(faults...)
}

// fits returns why the sidecar could not work in the pod, or nil.
func fits(pod object, s choice, sidecar []*yaml.Node) error {
	var faults []error
	spec := pod["spec"]
	// The older label is of nodes before Kubernetes 1.14, and still on all.
	if str(spec, "os", "name") == "windows" || str(spec, "nodeSelector", "kubernetes.io/os") == "windows" ||
		str(spec, "nodeSelector", "beta.kubernetes.io/os") == "windows" {
		faults = append(faults, errors.New("a Windows pod: the sidecar runs on Linux only"))
	}
	if at(spec, "hostNetwork") == true {
		faults = append(faults, fmt.Errorf("hostNetwork: the pod has no network of its own; exempt it with the annotation %smode: none", contract.AnnotationPrefix))
	}
	for _, list := range []string{"initContainers", "containers"} {
		for _, c := range items(at(spec, list)) {
			name := printable.Word(str(c, "name"))
			if list == "initContainers" && slices.ContainsFunc(sidecar, func(n *yaml.Node) bool { return text(n, "name") == str(c, "name") }) {
				continue
			}
			if isNumber(user(pod, c), s.proxyUID) {
				faults = append(faults, fmt.Errorf("container %s runs as %d, the sidecar's user: only the sidecar may use a client's address", name, s.proxyUID))
			}
			for _, p := range items(c["ports"]) {
				for which, port := range map[string]int{"proxy-port": s.proxyPort, "admin-port": s.adminPort} {
					if tcp := str(p, "protocol"); isNumber(p["containerPort"], port) && (tcp == "" || tcp == "TCP") {
						faults = append(faults, fmt.Errorf("container %s has port %d, which the sidecar uses: set another with the annotation %s%s",
							name, port, contract.AnnotationPrefix, which))
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
