package inject

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	node "go.yaml.in/yaml/v3"
	"sigs.k8s.io/yaml"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// This file reads documents as Kubernetes does: with kubectl's own library, which reads
// YAML 1.1 (`yes` is true, 0x1F is 31, of two equal keys the last counts) and resolves
// aliases and merge keys. What inject decides, it decides on this view; the YAML tree
// only says where to write.

// object is a mapping; the values are those of encoding/json.
type object = map[string]any

// view reads one document; nil for one without content.
func view(text []byte) (v any, err error) {
	asJSON, err := yaml.YAMLToJSON(text)
	if err != nil {
		return nil, err
	}
	return v, json.Unmarshal(asJSON, &v)
}

// at is the value below the keys, nil if there is none.
func at(v any, keys ...string) any {
	for _, key := range keys {
		m, _ := v.(object)
		v = m[key]
	}
	return v
}

// str is the string below the keys, empty if there is none.
func str(v any, keys ...string) string {
	s, _ := at(v, keys...).(string)
	return s
}

// isNumber reports whether a value is that number.
func isNumber(v any, n int) bool {
	f, ok := v.(float64)
	return ok && f == float64(n)
}

// items are the elements of a list that are objects.
func items(v any) (all []object) {
	list, _ := v.([]any)
	for _, e := range list {
		if m, ok := e.(object); ok {
			all = append(all, m)
		}
	}
	return all
}

// named is the position in a list of the object with that name, or -1.
func named(list any, name string) int {
	all, _ := list.([]any)
	return slices.IndexFunc(all, func(e any) bool { return name != "" && str(e, "name") == name })
}

// user is the one that a container of a pod runs as, nil if the pod does not say.
func user(pod object, container any) any {
	if own := at(container, "securityContext", "runAsUser"); own != nil {
		return own
	}
	return at(pod, "spec", "securityContext", "runAsUser")
}

// mounts are the volumes that a pod's containers have, each with the name of one of
// them. Those with the names in but do not count.
func mounts(pod object, but []string) map[string]string {
	users := map[string]string{}
	for _, list := range []string{"initContainers", "containers", "ephemeralContainers"} {
		for _, c := range items(at(pod, "spec", list)) {
			if slices.Contains(but, str(c, "name")) {
				continue
			}
			for _, m := range append(items(c["volumeMounts"]), items(c["volumeDevices"])...) {
				users[str(m, "name")] = str(c, "name")
			}
		}
	}
	return users
}

// texts are the annotations or labels of a pod. One of ours that is not a string for
// Kubernetes is a fault: the API server refuses it.
func texts(pod object, field string) (map[string]string, []error) {
	all := map[string]string{}
	var faults []error
	m, _ := at(pod, "metadata", field).(object)
	for _, key := range sortedKeys(m) {
		switch value := m[key].(type) {
		case string:
			all[key] = value
		default:
			if strings.HasPrefix(key, contract.AnnotationPrefix) {
				faults = append(faults, fmt.Errorf("%s: %s is %s for Kubernetes, which wants a string: put it in quotes",
					strings.TrimSuffix(field, "s"), printable.Word(key), kindOf(value)))
			}
		}
	}
	return all, faults
}

func kindOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return fmt.Sprint("the boolean ", v)
	case float64:
		return fmt.Sprint("the number ", v)
	}
	return "a list or a mapping"
}

func sortedKeys(m object) (keys []string) {
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// looksLikePod reports whether there is something like a pod template in an object of a
// kind that is not known: a list of containers, or a template.
func looksLikePod(v any) bool {
	switch v := v.(type) {
	case []any:
		return slices.ContainsFunc(v, looksLikePod)
	case object:
		for key, value := range v {
			list := items(value)
			if key == "containers" && len(list) > 0 && (list[0]["image"] != nil || list[0]["name"] != nil) {
				return true
			}
			if m, ok := value.(object); ok && (key == "template" || key == "podTemplate") && (m["spec"] != nil || m["metadata"] != nil) {
				return true
			}
			if looksLikePod(value) {
				return true
			}
		}
	}
	return false
}

// viewOf is a node as Kubernetes reads it.
func viewOf(n *node.Node) (any, error) {
	text, err := node.Marshal(n)
	if err != nil {
		return nil, err
	}
	return view(text)
}

// anys is a list's copy.
func anys(v any) []any {
	list, _ := v.([]any)
	return slices.Clone(list)
}
