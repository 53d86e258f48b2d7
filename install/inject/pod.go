package inject

import (
	"fmt"
	"reflect"
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
	proxy := text(containers[len(containers)-1], "name")
	has, why := hasSidecar(v, proxy)
	if why != "" {
		w.report.alone++
		w.note(why)
		return nil
	}
	if err := fits(v, s, containers); err != nil {
		return err
	}
	// What two pods share would be changed for both, but annotated in one.
	if err := checkNotAlias(n, "spec"); err != nil {
		return err
	}
	changes, err := w.containers(n, v, containers, has)
	if err == nil {
		err = w.volumes(n, v, volumes, has)
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

// hasSidecar reports whether a pod has the proxy of that name as inject writes it. why is
// not empty where the pod has something else, which inject leaves alone.
func hasSidecar(v object, proxy string) (has bool, why string) {
	init, ordinary := at(v, "spec", "initContainers"), at(v, "spec", "containers")
	for _, name := range []string{Container, proxy} {
		i := named(init, name)
		switch {
		case named(ordinary, name) >= 0:
			return false, "it has a container " + printable.Word(name) + " that inject did not write: it is left as it is"
		case i < 0:
		case name != proxy:
			return false, "it has the sidecar " + Container + ": take that out first (tproxy-install uninject)"
		case !marked(init.([]any)[i]):
			return false, "it has an init container " + printable.Word(name) + " that inject did not write: it is left as it is"
		default:
			has = true
		}
	}
	return has, ""
}

// containers adds the sidecar's containers to the view and the text, or renews them.
func (w *walker) containers(n *yaml.Node, v object, containers []*yaml.Node, has bool) (changes []string, err error) {
	spec := get(n, "spec")
	specView := at(v, "spec").(object)
	list, _ := specView["initContainers"].([]any)
	key, value, err := child(spec, "initContainers", specView["initContainers"] != nil)
	if err != nil {
		return nil, err
	}
	var missing []*yaml.Node
	var missingViews []any
	for _, c := range containers {
		i := named(list, text(c, "name"))
		if i >= 0 && !has {
			return nil, fmt.Errorf("init container %s is one of the sidecar's, too: rename it", printable.Word(text(c, "name")))
		}
		if i < 0 {
			seen, err := viewOf(c)
			if err != nil {
				return nil, err
			}
			missing, missingViews = append(missing, c), append(missingViews, seen)
			continue
		}
		merged := merge(c, resolve(value.Content[i]))
		seen, err := viewOf(merged)
		if err != nil {
			return nil, err
		}
		diff := differences(list[i], seen, "")
		if len(diff) == 0 {
			continue
		}
		changes = append(changes, diff...)
		list[i] = seen
		if value.Content[i].Kind == yaml.AliasNode {
			return nil, fmt.Errorf("container %s is an alias: replace it with its content", printable.Word(text(c, "name")))
		}
		if !w.edit.seen[n] {
			if err := w.edit.setItem(value, i, merged); err != nil {
				return nil, err
			}
		}
	}
	if len(missing) == 0 {
		return changes, nil
	}
	if has {
		changes = append(changes, "container "+printable.Word(text(missing[0], "name"))+" added")
	}
	// The first init container starts before, and stops after, all others.
	specView["initContainers"] = append(missingViews, list...)
	if w.edit.seen[n] {
		return changes, nil
	}
	return changes, w.add(n, "initContainers", key, value, missing, false)
}

// add adds elements to a list of a pod's spec.
func (w *walker) add(n *yaml.Node, name string, key, value *yaml.Node, elements []*yaml.Node, last bool) error {
	if value == nil {
		specKey, _, err := child(n, "spec", true)
		if err != nil {
			return err
		}
		return w.edit.addKey(specKey, get(n, "spec"), name, &yaml.Node{Kind: yaml.SequenceNode, Content: elements})
	}
	return w.edit.addItems(key, value, elements, last)
}

// volumes adds the sidecar's volumes to the pod's, or renews them.
func (w *walker) volumes(n *yaml.Node, v object, volumes []*yaml.Node, has bool) error {
	if len(volumes) == 0 {
		return nil
	}
	spec, specView := get(n, "spec"), at(v, "spec").(object)
	list, _ := specView["volumes"].([]any)
	key, value, err := child(spec, "volumes", specView["volumes"] != nil)
	if err != nil {
		return err
	}
	var missing []*yaml.Node
	for _, volume := range volumes {
		seen, err := viewOf(volume)
		if err != nil {
			return err
		}
		i := named(list, text(volume, "name"))
		switch {
		case i >= 0 && !has:
			return fmt.Errorf("volume %s is one of the sidecar's, too: rename it", printable.Word(text(volume, "name")))
		case i < 0:
			missing = append(missing, volume)
			specView["volumes"] = append(anys(specView["volumes"]), seen)
		case !reflect.DeepEqual(list[i], seen):
			list[i] = seen
			if w.edit.seen[n] {
				continue
			}
			if err := w.edit.setItem(value, i, volume); err != nil {
				return err
			}
		}
	}
	if len(missing) == 0 || w.edit.seen[n] {
		return nil
	}
	return w.add(n, "volumes", key, value, missing, true)
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
