package inject

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// pod adds the sidecar and the annotation that asks the plugin for it to a pod, whose
// node is n, or brings the sidecar up to date. The view v becomes what the text will.
func (w *walker) pod(n *yaml.Node, v object) error {
	s, err := choose(v, w.o)
	if err != nil {
		return err
	}
	if s.mode == contract.ModeNone {
		w.report.alone++
		return nil
	}
	containers, volumes, err := s.parts(w.o)
	if err != nil {
		return err
	}
	has, why := hasSidecar(v, names(containers), s.proxyUID)
	if why != "" {
		w.report.alone++
		w.note(why)
		return nil
	}
	if err := fits(v, s, containers); err != nil {
		return err
	}
	changes, err := w.containers(n, v, containers, has)
	if err == nil {
		var more []string
		more, err = w.volumes(n, v, volumes, names(containers), has)
		changes = append(changes, more...)
	}
	if err == nil && str(v, "metadata", "annotations", modeKey) != s.mode {
		changes = append(changes, fmt.Sprintf("annotation %s: %s", modeKey, s.mode))
		err = w.annotate(n, v, s.mode)
	}
	if err != nil {
		return err
	}
	switch {
	case !has:
		w.report.added++
	case len(changes) == 0:
		w.report.same++
	default:
		w.report.updated++
		w.note("the sidecar that it has is brought up to date: " + strings.Join(changes, "; "))
	}
	w.edit.seen[n] = true
	return nil
}

// hasSidecar reports whether a pod has the sidecar of these containers, the last of which
// is the proxy, as inject writes it. why is not empty where the pod has something else,
// which inject leaves alone.
func hasSidecar(v object, containers []string, uid int) (has bool, why string) {
	proxy := containers[len(containers)-1]
	init, ordinary := at(v, "spec", "initContainers"), at(v, "spec", "containers")
	for _, name := range []string{Container, proxy} {
		switch {
		case named(ordinary, name) >= 0:
			return false, "it has a container " + printable.Word(name) + " that inject did not write: it is left as it is"
		case named(init, name) < 0:
		case !isSidecar(v, name, uid):
			return false, "it has an init container " + printable.Word(name) + " that inject did not write: it is left as it is"
		case name != proxy && slices.Contains(containers, name) && isSidecar(v, proxy, uid):
			// The sidecar with a holder, which has both.
		case name != proxy:
			return false, "it has the sidecar " + Container + ": take that out first (tproxy-install uninject)"
		default:
			has = true
		}
	}
	return has, ""
}

// isSidecar reports whether the init container of that name is one that inject wrote:
// native and, since a name like proxy says little, with the only user that the rules let
// be a sidecar. The built-in one's name says it: its user may be out of date.
func isSidecar(v object, name string, uid int) bool {
	init := at(v, "spec", "initContainers")
	i := named(init, name)
	if i < 0 {
		return false
	}
	c := init.([]any)[i]
	return str(c, "restartPolicy") == "Always" && (name == Container || isNumber(user(v, c), uid))
}

// annotate sets the annotation that asks the plugin.
func (w *walker) annotate(n *yaml.Node, v object, mode string) error {
	metadata, hasMetadata := v["metadata"].(object)
	if !hasMetadata {
		metadata = object{}
		v["metadata"] = metadata
	}
	annotations, hasAnnotations := metadata["annotations"].(object)
	if !hasAnnotations {
		annotations = object{}
		metadata["annotations"] = annotations
	}
	_, hasMode := annotations[modeKey]
	annotations[modeKey] = mode
	if w.edit.seen[n] {
		return nil
	}
	// From the outside in, the first that is absent is made, with what is below it.
	value := &yaml.Node{Kind: yaml.ScalarNode, Value: mode}
	wrap := func(key string, value *yaml.Node) *yaml.Node {
		return &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{scalar(key), value}}
	}
	var parent *yaml.Node // n is in a list, the document, or below a key
	metadataKey, m, err := child(n, "metadata", hasMetadata)
	if err != nil {
		return err
	}
	if m == nil {
		return w.edit.addKey(w.key, n, "metadata", wrap("annotations", wrap(modeKey, value)))
	}
	parent = metadataKey
	if len(m.Content) == 0 && !flow(m) {
		return w.edit.addKey(parent, m, "annotations", wrap(modeKey, value))
	}
	annotationsKey, a, err := child(m, "annotations", hasAnnotations)
	if err != nil {
		return err
	}
	if a == nil {
		return w.edit.addKey(parent, m, "annotations", wrap(modeKey, value))
	}
	_, old, err := child(a, modeKey, hasMode)
	if err != nil {
		return err
	}
	if old == nil {
		return w.edit.addKey(annotationsKey, a, modeKey, value)
	}
	w.edit.setScalar(old, mode)
	return nil
}
