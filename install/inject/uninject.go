package inject

import (
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// podBack takes the sidecar out of a pod, with its volumes and the annotation that asks
// the plugin: without the sidecar it would cut the pod off. Other settings stay.
func (w *walker) podBack(n *yaml.Node, v object) error {
	s, _ := choose(v, w.o) // a fault of other settings keeps no sidecar in
	c, vs, err := s.parts(w.o)
	if err != nil {
		return err
	}
	containers, volumes := names(c), names(vs)
	proxy := containers[len(containers)-1]
	if !isSidecar(v, proxy, s.proxyUID) {
		w.report.same++
		if mode := str(v, "metadata", "annotations", modeKey); mode != "" && mode != contract.ModeNone {
			w.note(fmt.Sprintf("it has the annotation %s: %s and no sidecar %s: if it is another proxy's, give its file: --sidecar",
				modeKey, printable.Word(mode), printable.Word(proxy)))
		}
		return nil
	}
	if more := also(v, containers, s.proxyUID); more != "" {
		w.report.alone++
		w.note(fmt.Sprintf("container %s runs as %d, too, and would stay: it is of the sidecar in another file, so give that: --sidecar",
			printable.Word(more), s.proxyUID))
		return nil
	}
	if err := checkNotAlias(n, "spec"); err != nil {
		return err
	}
	if err := w.takeOut(n, v, "initContainers", containers); err != nil {
		return err
	}
	users := mounts(v, nil)
	volumes = slices.DeleteFunc(volumes, func(name string) bool {
		if users[name] != "" {
			w.note(fmt.Sprintf("volume %s stays: container %s mounts it", printable.Word(name), printable.Word(users[name])))
		}
		return users[name] != ""
	})
	if err := w.takeOut(n, v, "volumes", volumes); err != nil {
		return err
	}
	if err := w.annotateBack(n, v); err != nil {
		return err
	}
	if str(v, "metadata", "labels", Label) != "" {
		w.note("it still has the label " + Label + ", with which the admission policy adds the sidecar or refuses the pod")
	}
	w.report.removed++
	w.edit.seen[n] = true
	return nil
}

// also is the name of a native sidecar that runs as the sidecar's user and is none of
// these containers; empty if there is none. The sidecar alone would leave it behind.
func also(v object, containers []string, uid int) string {
	for _, c := range items(at(v, "spec", "initContainers")) {
		if name := str(c, "name"); !slices.Contains(containers, name) && isSidecar(v, name, uid) {
			return name
		}
	}
	return ""
}

// names are those of the objects in a list.
func names(list []*yaml.Node) (all []string) {
	for _, n := range list {
		all = append(all, text(n, "name"))
	}
	return all
}

// takeOut removes elements from a list of the pod's spec, by their names.
func (w *walker) takeOut(n *yaml.Node, v object, key string, gone []string) error {
	spec, specView := get(n, "spec"), v["spec"].(object)
	list, _ := specView[key].([]any)
	isGone := func(e any) bool { return slices.Contains(gone, str(e, "name")) && str(e, "name") != "" }
	if !slices.ContainsFunc(list, isGone) {
		return nil
	}
	if _, _, err := child(spec, key, true); err != nil {
		return err
	}
	if !w.edit.seen[n] {
		w.edit.removeItems(spec, index(spec, key), func(i int) bool { return isGone(list[i]) })
	}
	specView[key] = slices.DeleteFunc(slices.Clone(list), isGone)
	return nil
}

// annotateBack removes the annotation that asks the plugin, and the mappings that have
// nothing else.
func (w *walker) annotateBack(n *yaml.Node, v object) error {
	annotations, _ := at(v, "metadata", "annotations").(object)
	if _, ok := annotations[modeKey]; !ok {
		return nil
	}
	delete(annotations, modeKey)
	if w.edit.seen[n] {
		return nil
	}
	_, m, err := child(n, "metadata", true)
	if err != nil {
		return err
	}
	_, a, err := child(m, "annotations", true)
	if err != nil {
		return err
	}
	if _, _, err = child(a, modeKey, true); err != nil {
		return err
	}
	at, in, key := a, m, "annotations"
	switch {
	case len(a.Content) > 2 || !w.edit.ownKey(m, index(m, key)-1):
		w.edit.removeKey(at, index(at, modeKey)-1)
	case len(m.Content) > 2 || !w.edit.ownKey(n, index(n, "metadata")-1):
		w.edit.removeKey(in, index(in, key)-1)
	default:
		w.edit.removeKey(n, index(n, "metadata")-1)
	}
	return nil
}
