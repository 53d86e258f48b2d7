package inject

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// whole are what a sidecar has as inject writes it, or not at all: a part of another
// mode's or version's would break it.
var whole = []string{"securityContext", "startupProbe", "readinessProbe", "livenessProbe", "command", "lifecycle"}

// ourFlags are those that inject writes.
var ourFlags = []string{"--mode", "--addr", "--admin", "--proxy-protocol-from", "--proxy-protocol-ports"}

// merge is the sidecar as inject writes it today, with what somebody has added to the one
// that is there: keys, flags, and elements of lists that inject does not write.
func merge(today, there *yaml.Node) *yaml.Node {
	out := *today
	out.Content = nil
	for i := 0; i+1 < len(today.Content); i += 2 {
		key, value := today.Content[i], today.Content[i+1]
		old := get(there, key.Value)
		switch {
		case old == nil || slices.Contains(whole, key.Value):
		case value.Kind == yaml.MappingNode && old.Kind == yaml.MappingNode:
			value = merge(value, old)
		case value.Kind == yaml.SequenceNode && old.Kind == yaml.SequenceNode:
			value = mergeList(key.Value, value, old)
		}
		out.Content = append(out.Content, key, value)
	}
	for i := 0; there.Kind == yaml.MappingNode && i+1 < len(there.Content); i += 2 {
		if key := there.Content[i]; index(today, key.Value) < 0 && !slices.Contains(whole, key.Value) {
			out.Content = append(out.Content, key, there.Content[i+1])
		}
	}
	return &out
}

// mergeList is a list as inject writes it with the elements of the other that it does
// not: flags of other names, and objects with other names.
func mergeList(key string, today, there *yaml.Node) *yaml.Node {
	known := map[string]bool{}
	if key == "args" {
		for _, f := range ourFlags {
			known[f] = true
		}
	}
	out := *today
	out.Content = slices.Clone(today.Content)
	for _, e := range today.Content {
		known[identity(e)] = true
	}
	keep, open := false, false // the flag before, and whether a value of it may follow
	for _, e := range there.Content {
		word := resolve(e).Value
		isFlag := key == "args" && strings.HasPrefix(word, "-")
		if !open || isFlag {
			keep = !known[identity(e)]
		}
		open = isFlag && !strings.Contains(word, "=")
		if keep {
			out.Content = append(out.Content, e)
		}
	}
	return &out
}

// identity is what two elements of lists have in common that mean the same: a flag's
// name, as --NAME, or an object's name and path.
func identity(n *yaml.Node) string {
	n = resolve(n)
	if n.Kind != yaml.ScalarNode {
		return text(n, "name") + "\x00" + text(n, "mountPath")
	}
	word, _, _ := strings.Cut(n.Value, "=")
	if name := strings.TrimLeft(word, "-"); name != word {
		return "--" + name
	}
	return word
}

// differences says how a container changes, a line for each field.
func differences(from, to any, path string) (all []string) {
	f, isObject := from.(object)
	t, too := to.(object)
	if !isObject || !too {
		if !reflect.DeepEqual(from, to) {
			all = append(all, fmt.Sprintf("%s: %s -> %s", strings.TrimPrefix(path, "."), short(from), short(to)))
		}
		return all
	}
	keys := sortedKeys(f)
	for key := range t {
		if _, ok := f[key]; !ok {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		all = append(all, differences(f[key], t[key], path+"."+key)...)
	}
	return all
}

// short is a value as it may be shown.
func short(v any) string {
	if v == nil {
		return "none"
	}
	return printable.Short(fmt.Sprint(v))
}
