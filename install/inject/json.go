package inject

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// This file makes a YAML tree of JSON, which is not quite YAML: some escapes are its
// own, and YAML reads some characters in texts as others.

// jsonTexts are the texts and keys in JSON, with their quotes.
var jsonTexts = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)

// asYAML is JSON as YAML with every byte's place the same, but x for each byte of the
// texts, and without tabs.
func asYAML(text []byte) []byte {
	text = jsonTexts.ReplaceAllFunc(text, func(t []byte) []byte {
		return []byte(`"` + strings.Repeat("x", len(t)-len(`""`)) + `"`)
	})
	return bytes.ReplaceAll(text, []byte("\t"), []byte(" "))
}

// fillIn gives the tree of asYAML the texts of the JSON, which are in the same order.
func fillIn(root *yaml.Node, text []byte) error {
	texts := jsonTexts.FindAll(text, -1)
	var walk func(*yaml.Node) error
	walk = func(n *yaml.Node) error {
		if n.Kind == yaml.ScalarNode && n.Style&yaml.DoubleQuotedStyle != 0 {
			if err := json.Unmarshal(texts[0], &n.Value); err != nil {
				return err
			}
			texts = texts[1:]
		}
		for _, c := range n.Content {
			if err := walk(c); err != nil {
				return err
			}
		}
		return nil
	}
	return walk(root)
}
