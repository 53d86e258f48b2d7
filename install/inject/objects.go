package inject

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// kubernetes are the API groups of Kubernetes itself, besides those of k8s.io. Of their
// kinds only those above have pods.
var kubernetes = []string{"", "apps", "batch", "autoscaling", "policy"}

// object changes the pod of one object or, in a List, of each. v is its view.
func (w *walker) object(n *yaml.Node, v any) error {
	n = resolve(n)
	kind := str(v, "kind")
	if list, ok := at(v, "items").([]any); ok && kind == "List" {
		if err := checkNotAlias(n, "items"); err != nil {
			return fmt.Errorf("kind List: %w", err)
		}
		nodes := get(n, "items")
		if nodes == nil || len(nodes.Content) != len(list) {
			return errors.New("kind List: items comes by a merge key: write it out")
		}
		var faults []error
		for i, item := range nodes.Content {
			if item.Kind == yaml.AliasNode {
				// It may be a List that has itself as an item.
				faults = append(faults, fmt.Errorf("kind List: item %d is an alias: replace it with its content", i+1))
				continue
			}
			faults = append(faults, w.object(item, list[i]))
		}
		return errors.Join(faults...)
	}
	apiVersion := str(v, "apiVersion")
	group := group(apiVersion)
	if item, isList := strings.CutSuffix(kind, "List"); isList && templates[group+"/"+item] != nil {
		return fmt.Errorf("%s: its items have no kind of their own: use kind: List", printable.Word(kind))
	}
	w.who = who(v)
	path, ok := templates[group+"/"+kind]
	if !ok {
		w.unknown(kind, apiVersion, v)
		return nil
	}
	pod, podView, key := n, v, (*yaml.Node)(nil)
	for _, name := range path {
		if i := index(pod, name); i >= 0 {
			key = pod.Content[i-1]
		}
		pod, podView = get(pod, name), at(podView, name)
	}
	m, ok := podView.(object)
	if list, isList := at(m, "spec", "containers").([]any); !ok || !isList || len(list) == 0 {
		return fmt.Errorf("%s: no containers", w.who)
	}
	if pod == nil || get(pod, "spec") == nil {
		return fmt.Errorf("%s: the pod comes by a merge key <<: write it out", w.who)
	}
	w.key = key
	do := w.pod
	if w.undo {
		do = w.podBack
	}
	if err := do(pod, m); err != nil {
		return fmt.Errorf("%s: %w", w.who, err)
	}
	return nil
}

// unknown passes an object of a kind without a known pod.
func (w *walker) unknown(kind, apiVersion string, v any) {
	if _, isObject := v.(object); !isObject || kind == "" {
		return
	}
	group := group(apiVersion)
	ours := slices.Contains(kubernetes, group) || strings.HasSuffix(group, ".k8s.io")
	if !ours {
		w.report.kind(printable.Word(kind))
	}
	if looksLikePod(v) {
		w.note(fmt.Sprintf("%s is no kind that is known here: it is left as it is, and if it makes pods, they are left as they are", printable.Word(apiVersion)))
	}
}

// who names an object: its kind, and NAMESPACE/NAME.
func who(v any) string {
	name := str(v, "metadata", "name")
	if name == "" {
		name = str(v, "metadata", "generateName")
	}
	if ns := str(v, "metadata", "namespace"); ns != "" {
		name = ns + "/" + name
	}
	return printable.Word(str(v, "kind")) + " " + printable.Word(name)
}
