package inject

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// This file reads and changes YAML trees. A nil node stands for one that is
// absent, and has nothing below it.

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

func annotations(pod *yaml.Node) map[string]string {
	all := map[string]string{}
	if n := get(pod, "metadata", "annotations"); n != nil && n.Kind == yaml.MappingNode {
		for i := 0; i < len(n.Content); i += 2 {
			all[n.Content[i].Value] = text(n.Content[i+1])
		}
	}
	return all
}

// checkNotAlias fails if the value of key is an alias, because a change of it
// would also change other objects.
func checkNotAlias(n *yaml.Node, key string) error {
	if i := index(n, key); i >= 0 && n.Content[i].Kind == yaml.AliasNode {
		return fmt.Errorf("%s is an alias, shared with another object: replace it with its content", key)
	}
	return nil
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

// named reports whether a list has an element with that name.
func named(list *yaml.Node, name string) bool {
	return slices.ContainsFunc(elements(list), func(e *yaml.Node) bool { return text(e, "name") == name })
}

// put sets the node below the keys and makes the mappings on the way. A new key
// comes first in its mapping, where a reader sees it.
func put(n, value *yaml.Node, keys ...string) error {
	n = resolve(n)
	for at, key := range keys {
		last := at == len(keys)-1
		i := index(n, key)
		switch {
		case i < 0 && index(n, "<<") >= 0:
			// A new key would hide the value that the merged mapping has for it.
			return fmt.Errorf("%q is not set beside the merge key <<: write it out there", key)
		case i < 0:
			child := value
			if !last {
				child = &yaml.Node{Kind: yaml.MappingNode}
			}
			insert(n, key, child)
			i = index(n, key)
		case last:
			value.HeadComment, value.LineComment, value.FootComment = n.Content[i].HeadComment, n.Content[i].LineComment, n.Content[i].FootComment
			n.Content[i] = value
		}
		if last {
			return nil
		}
		if err := checkNotAlias(n, key); err != nil {
			return err
		}
		if c := resolve(n.Content[i]); c.Kind == yaml.ScalarNode && text(c) == "" {
			n.Content[i] = &yaml.Node{Kind: yaml.MappingNode} // `annotations:` with nothing
		}
		n = resolve(n.Content[i])
		if n.Kind != yaml.MappingNode {
			return fmt.Errorf("%s is not a mapping", strings.Join(keys[:at+1], "."))
		}
	}
	return nil
}

// insert adds key as the first of mapping n.
func insert(n *yaml.Node, key string, value *yaml.Node) {
	if len(n.Content) == 0 {
		n.Style &^= yaml.FlowStyle // `{}`
	}
	n.Content = slices.Insert(n.Content, 0, &yaml.Node{Kind: yaml.ScalarNode, Value: key}, value)
}

// unfold removes the {} and [] of nodes that have block style below them, which
// would not be valid YAML, and reports whether n has block style afterwards.
func unfold(n *yaml.Node) (block bool) {
	for _, c := range n.Content {
		if unfold(c) {
			n.Style &^= yaml.FlowStyle
		}
	}
	return len(n.Content) > 0 && n.Style&yaml.FlowStyle == 0
}

func remove(n *yaml.Node, key string) {
	if i := index(n, key); i >= 0 {
		n.Content = slices.Delete(n.Content, i-1, i+1)
	}
}

// group is the group of an apiVersion, empty for the core group.
func group(apiVersion string) string {
	g, _, ok := strings.Cut(apiVersion, "/")
	if !ok {
		return ""
	}
	return g
}
