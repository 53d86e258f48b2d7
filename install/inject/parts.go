package inject

import (
	"fmt"

	"go.yaml.in/yaml/v3"

	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// containers adds the sidecar's containers to the view and the text, or renews them.
func (w *walker) containers(n *yaml.Node, v object, containers []*yaml.Node, has bool) (changes []string, err error) {
	list := anys(at(v, "spec", "initContainers"))
	var missing, old []*yaml.Node
	var missingViews []any
	for _, c := range containers {
		name := printable.Word(text(c, "name"))
		i := named(list, text(c, "name"))
		if i >= 0 && !has {
			return nil, fmt.Errorf("init container %s is one of the sidecar's, too: rename it", name)
		}
		if i < 0 {
			seen, err := viewOf(c)
			if err != nil {
				return nil, err
			}
			missing, missingViews = append(missing, c), append(missingViews, seen)
			continue
		}
		var there yaml.Node // as Kubernetes reads it, without aliases and merge keys
		if err := there.Encode(list[i]); err != nil {
			return nil, err
		}
		seen, err := viewOf(merge(c, &there))
		if err != nil {
			return nil, err
		}
		if diff := differences(list[i], seen, ""); len(diff) > 0 {
			changes, old = append(changes, diff...), append(old, c)
			list[i] = seen
		}
	}
	if has && len(missing) > 0 {
		changes = append(changes, "container "+printable.Word(text(missing[0], "name"))+" added")
	}
	if len(missing) == 0 && len(old) == 0 {
		return nil, nil
	}
	key, value, err := writable(n, v, "initContainers")
	// The first init container starts before, and stops after, all others.
	v["spec"].(object)["initContainers"] = append(missingViews, list...)
	if err != nil || w.edit.seen[n] {
		return changes, err
	}
	for _, c := range old {
		i := named(list, text(c, "name"))
		there := value.Content[i]
		if shares(there) {
			return nil, fmt.Errorf("container %s has to change, and is or has an alias or a merge key: replace it with its content", printable.Word(text(c, "name")))
		}
		if err := w.edit.setItem(value, i, merge(c, there)); err != nil {
			return nil, err
		}
	}
	if len(missing) == 0 {
		return changes, nil
	}
	return changes, w.add(n, "initContainers", key, value, missing, false)
}

// volumes adds the sidecar's volumes to the pod's, or renews them; containers are the
// names of those that are the sidecar's.
func (w *walker) volumes(n *yaml.Node, v object, volumes []*yaml.Node, containers []string, has bool) (changes []string, err error) {
	list := anys(at(v, "spec", "volumes"))
	users := mounts(v, containers)
	var missing, old []*yaml.Node
	var missingViews []any
	for _, volume := range volumes {
		name := text(volume, "name")
		seen, err := viewOf(volume)
		if err != nil {
			return nil, err
		}
		i := named(list, name)
		if i < 0 {
			missing, missingViews = append(missing, volume), append(missingViews, seen)
			continue
		}
		diff := differences(list[i], seen, "volume "+printable.Word(name))
		switch {
		case !has:
			return nil, fmt.Errorf("volume %s is one of the sidecar's, too: rename it", printable.Word(name))
		case len(diff) == 0:
		case users[name] != "":
			return nil, fmt.Errorf("volume %s is not as the sidecar's file has it, and container %s mounts it: rename it there", printable.Word(name), printable.Word(users[name]))
		default:
			changes, old = append(changes, diff...), append(old, volume)
			list[i] = seen
		}
	}
	if has && len(missing) > 0 {
		changes = append(changes, "volume "+printable.Word(text(missing[0], "name"))+" added")
	}
	if len(missing) == 0 && len(old) == 0 {
		return nil, nil
	}
	key, value, err := writable(n, v, "volumes")
	v["spec"].(object)["volumes"] = append(list, missingViews...)
	if err != nil || w.edit.seen[n] {
		return changes, err
	}
	for _, volume := range old {
		if err := w.edit.setItem(value, named(list, text(volume, "name")), volume); err != nil {
			return nil, err
		}
	}
	if len(missing) == 0 {
		return changes, nil
	}
	return changes, w.add(n, "volumes", key, value, missing, true)
}

// writable is the key and the value of a list in a pod's spec to write to; nil if it is
// absent.
func writable(n *yaml.Node, v object, list string) (key, value *yaml.Node, err error) {
	// What two pods share would be changed for both, but annotated in one.
	if err := checkNotAlias(n, "spec"); err != nil {
		return nil, nil, err
	}
	return child(get(n, "spec"), list, at(v, "spec", list) != nil)
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
