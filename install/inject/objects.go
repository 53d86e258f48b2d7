package inject

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// kubernetes are the API groups of Kubernetes itself, those below them included, such as
// gateway.networking.k8s.io. Of their kinds only those above have pods. Others have names
// below k8s.io, too: a SparkApplication of sparkoperator.k8s.io makes pods.
var kubernetes = append([]string{"", "apps", "batch", "autoscaling", "policy"}, strings.Fields(`
	admissionregistration.k8s.io apiextensions.k8s.io apiregistration.k8s.io apiserver.k8s.io
	authentication.k8s.io authorization.k8s.io certificates.k8s.io config.k8s.io
	coordination.k8s.io discovery.k8s.io events.k8s.io metrics.k8s.io networking.k8s.io
	node.k8s.io resource.k8s.io scheduling.k8s.io storage.k8s.io storagemigration.k8s.io`)...)

// object changes the pod of one object or, in a List, of each. v is its view; kind and
// apiVersion are its own, or those that it has from a List.
func (w *walker) object(n *yaml.Node, v any, kind, apiVersion string) error {
	n = resolve(n)
	if list, ok := at(v, "items").([]any); ok && strings.HasSuffix(kind, "List") {
		return w.list(n, list, kind, apiVersion)
	}
	group := group(apiVersion)
	w.who = who(kind, v)
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

// list changes the items of a List. In one of a kind, such as a PodList, an item that
// says neither kind nor apiVersion is of the list's, as for kubectl.
func (w *walker) list(n *yaml.Node, list []any, kind, apiVersion string) error {
	if err := checkNotAlias(n, "items"); err != nil {
		return fmt.Errorf("kind %s: %w", printable.Word(kind), err)
	}
	nodes := get(n, "items")
	if nodes == nil || len(nodes.Content) != len(list) {
		return fmt.Errorf("kind %s: items comes by a merge key: write it out", printable.Word(kind))
	}
	var faults []error
	for i, item := range nodes.Content {
		if item.Kind == yaml.AliasNode {
			// It may be a List that has itself as an item.
			faults = append(faults, fmt.Errorf("kind %s: item %d is an alias: replace it with its content", printable.Word(kind), i+1))
			continue
		}
		itemKind, itemVersion := str(list[i], "kind"), str(list[i], "apiVersion")
		if itemKind == "" && itemVersion == "" {
			itemKind, itemVersion = strings.TrimSuffix(kind, "List"), apiVersion
		}
		faults = append(faults, w.object(item, list[i], itemKind, itemVersion))
	}
	return errors.Join(faults...)
}

// unknown passes an object of a kind without a known pod.
func (w *walker) unknown(kind, apiVersion string, v any) {
	if _, isObject := v.(object); !isObject || kind == "" {
		return
	}
	group := group(apiVersion)
	ours := slices.ContainsFunc(kubernetes, func(k string) bool {
		return group == k || strings.HasSuffix(group, "."+k) && strings.HasSuffix(k, ".k8s.io")
	})
	if !ours {
		w.report.kind(printable.Word(kind))
	}
	if looksLikePod(v) {
		w.note(fmt.Sprintf("%s is no kind that is known here: it is left as it is, and if it makes pods, they are left as they are", printable.Word(apiVersion)))
	}
}

// who names an object: its kind, and NAMESPACE/NAME.
func who(kind string, v any) string {
	name := str(v, "metadata", "name")
	if name == "" {
		name = str(v, "metadata", "generateName")
	}
	if ns := str(v, "metadata", "namespace"); ns != "" {
		name = ns + "/" + name
	}
	return printable.Word(kind) + " " + printable.Word(name)
}
