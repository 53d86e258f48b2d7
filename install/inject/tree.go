package inject

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// This file reads YAML trees. A nil node stands for one that is absent, and has nothing
// below it.

// resolve follows an alias to the node of its anchor.
func resolve(n *yaml.Node) *yaml.Node {
	for n != nil && n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

// index is the position in n.Content of the value of key, or -1.
func index(n *yaml.Node, key string) int {
	if n == nil || n.Kind != yaml.MappingNode {
		return -1
	}
	for i := 0; i < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return i + 1
		}
	}
	return -1
}

// get is the node below the keys, nil if there is none.
func get(n *yaml.Node, keys ...string) *yaml.Node {
	n = resolve(n)
	for _, key := range keys {
		i := index(n, key)
		if i < 0 {
			return nil
		}
		n = resolve(n.Content[i])
	}
	return n
}

// text is the scalar below the keys, empty if there is none.
func text(n *yaml.Node, keys ...string) string {
	n = get(n, keys...)
	if n == nil || n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		return ""
	}
	return n.Value
}

// checkNotAlias fails if the value of key is an alias, because a change of it
// would also change other objects.
func checkNotAlias(n *yaml.Node, key string) error {
	if i := index(n, key); i >= 0 && n.Content[i].Kind == yaml.AliasNode {
		return fmt.Errorf("%s is an alias, shared with another object: replace it with its content", key)
	}
	return nil
}

// shares reports whether a node is or has an alias or a merge key.
func shares(n *yaml.Node) bool {
	return n.Kind == yaml.AliasNode || n.Tag == "!!merge" || slices.ContainsFunc(n.Content, shares)
}

// inFlow reports whether n is below root in a mapping in flow style.
func inFlow(root, n *yaml.Node) bool {
	return slices.ContainsFunc(root.Content, func(c *yaml.Node) bool {
		return c == n && flow(root) || inFlow(c, n)
	})
}

func elements(list *yaml.Node) []*yaml.Node {
	if list == nil || list.Kind != yaml.SequenceNode {
		return nil
	}
	all := make([]*yaml.Node, len(list.Content))
	for i, e := range list.Content {
		all[i] = resolve(e)
	}
	return all
}

func remove(n *yaml.Node, key string) {
	if i := index(n, key); i >= 0 {
		n.Content = append(n.Content[:i-1], n.Content[i+1:]...)
	}
}

// child is the key and the value below a mapping to write to: neither an alias nor
// behind a merge key. Both are nil if it is absent. has says that the view has it.
func child(n *yaml.Node, name string, has bool) (key, value *yaml.Node, err error) {
	i := index(n, name)
	switch {
	case i < 0 && has:
		return nil, nil, fmt.Errorf("%q is not set beside the merge key <<: write it out there", name)
	case i < 0:
		return nil, nil, nil
	}
	return n.Content[i-1], n.Content[i], checkNotAlias(n, name)
}

// group is the group of an apiVersion, empty for the core group.
func group(apiVersion string) string {
	g, _, ok := strings.Cut(apiVersion, "/")
	if !ok {
		return ""
	}
	return g
}
