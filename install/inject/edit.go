package inject

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	kyaml "sigs.k8s.io/yaml"

	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// This file writes into the text of a document, at places that its YAML tree gives, so
// that every other byte stays. What comes out is read again and compared with what
// should have come out (document): a style that is not foreseen here is an error, and
// never another meaning.

// editor gathers the changes of one document.
type editor struct {
	src     []byte
	root    *yaml.Node
	lines   []int // offset of the beginning of each line
	newline string
	compact bool // lists in keys are not indented
	edits   []edit
	seen    map[*yaml.Node]bool // pods that were changed: an alias is the same again
}

// edit replaces src[from:to].
type edit struct {
	from, to int
	text     string
}

func newEditor(src []byte, root *yaml.Node) *editor {
	e := &editor{src: src, root: root, lines: []int{0}, newline: "\n", compact: compact(root), seen: map[*yaml.Node]bool{}}
	for i := 0; i < len(src); {
		r, n := utf8.DecodeRune(src[i:])
		i += n
		if r == '\r' && i < len(src) && src[i] == '\n' {
			i++
		}
		if strings.ContainsRune("\r\n\u0085\u2028\u2029", r) { // the line breaks of YAML 1.1
			e.lines = append(e.lines, i)
		}
	}
	if i := bytes.IndexByte(src, '\n'); i > 0 && src[i-1] == '\r' {
		e.newline = "\r\n"
	}
	return e
}

// apply is a text with the changes: the editor's own, or the JSON that it stands for.
func (e *editor) apply(src []byte) []byte {
	// What is inserted where a replacement begins comes before it.
	slices.SortStableFunc(e.edits, func(a, b edit) int { return cmp.Or(a.from-b.from, a.to-b.to) })
	var out []byte
	done := 0
	for _, c := range e.edits {
		if c.from < done {
			continue // inside of what has been removed
		}
		out = append(out, src[done:c.from]...)
		out = append(out, c.text...)
		done = c.to
	}
	return append(out, src[done:]...)
}

func (e *editor) replace(from, to int, text string) { e.edits = append(e.edits, edit{from, to, text}) }

// position is where a node begins, with its anchor and tag.
func (e *editor) position(n *yaml.Node) int {
	if n.Line < 1 || n.Line > len(e.lines) {
		return len(e.src)
	}
	at := e.lines[n.Line-1]
	for range n.Column - 1 {
		_, size := utf8.DecodeRune(e.src[at:])
		at += size
	}
	return at
}

// offset is where a node begins, behind its anchor and tag.
func (e *editor) offset(n *yaml.Node) int {
	at := e.position(n)
	for at < len(e.src) && (e.src[at] == '&' || e.src[at] == '!') {
		for at < len(e.src) && strings.IndexByte(" \t\r\n", e.src[at]) < 0 {
			at++
		}
		for at < len(e.src) && (e.src[at] == ' ' || e.src[at] == '\t') {
			at++
		}
	}
	return at
}

// lineOf is the index in e.lines of the line of an offset.
func (e *editor) lineOf(at int) int {
	i, found := slices.BinarySearch(e.lines, at)
	if !found {
		i--
	}
	return i
}

// column is how many bytes are before an offset in its line.
func (e *editor) column(at int) int { return at - e.lines[e.lineOf(at)] }

// startOf is the offset of a line, or the end.
func (e *editor) startOf(line int) int {
	if line >= len(e.lines) {
		return len(e.src)
	}
	return e.lines[line]
}

func flow(n *yaml.Node) bool { return n.Style&yaml.FlowStyle != 0 }

// insertLines puts lines before a line of the document.
func (e *editor) insertLines(line int, text string) { e.insertAt(e.startOf(line), text) }

func (e *editor) insertAt(at int, text string) {
	text = strings.ReplaceAll(text, "\n", e.newline)
	if at == len(e.src) && at > 0 && e.src[at-1] != '\n' && e.src[at-1] != '\r' {
		text = e.newline + strings.TrimSuffix(text, e.newline)
	}
	e.replace(at, at, text)
}

// addKey adds a key to a mapping, as the first, where a reader sees it. parent is the
// mapping's own key, nil for the document and for an element of a list.
func (e *editor) addKey(parent, mapping *yaml.Node, key string, value *yaml.Node) error {
	if flow(mapping) {
		asJSON, err := encodeJSON(value)
		if err != nil {
			return err
		}
		return e.addFlow(mapping, fmt.Sprintf("%q: %s", key, asJSON))
	}
	if len(mapping.Content) == 0 { // `key:`, `key: null`
		return e.fillNull(parent, mapping, &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{scalar(key), value}})
	}
	text, err := e.encode(&yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{scalar(key), value}})
	if err != nil {
		return err
	}
	first := e.offset(mapping.Content[0])
	indent := strings.Repeat(" ", e.column(first))
	if parent == nil || parent.Line == mapping.Content[0].Line {
		e.insertAt(first, strings.TrimPrefix(indented(text, indent), indent)+indent)
		return nil
	}
	e.insertLines(parent.Line, indented(text, indent))
	return nil
}

// addItems adds elements to the list of a key, as the first or as the last.
func (e *editor) addItems(key, list *yaml.Node, items []*yaml.Node, last bool) error {
	sequence := &yaml.Node{Kind: yaml.SequenceNode, Content: items}
	if flow(list) {
		asJSON, err := encodeJSON(sequence)
		if err != nil {
			return err
		}
		text := strings.TrimSuffix(strings.TrimPrefix(string(asJSON), "["), "]")
		if last && len(list.Content) > 0 {
			end := e.flowEnd(e.offset(list.Content[len(list.Content)-1]))
			e.replace(end, end, ", "+text)
			return nil
		}
		return e.addFlow(list, text)
	}
	if len(list.Content) == 0 {
		return e.fillNull(key, list, sequence)
	}
	text, err := e.encode(sequence)
	if err != nil {
		return err
	}
	text = indented(text, strings.Repeat(" ", e.column(e.dash(list.Content[0]))))
	if last {
		_, end := e.itemSpan(list, len(list.Content)-1)
		e.insertAt(end, text)
	} else {
		e.insertLines(key.Line, text)
	}
	return nil
}

// setItem replaces element i of a list.
func (e *editor) setItem(list *yaml.Node, i int, item *yaml.Node) error {
	if flow(list) || flow(list.Content[i]) {
		asJSON, err := encodeJSON(item)
		if err != nil {
			return err
		}
		from := e.offset(list.Content[i])
		e.replace(from, e.flowEnd(from), string(asJSON))
		return nil
	}
	text, err := e.encode(&yaml.Node{Kind: yaml.SequenceNode, Content: []*yaml.Node{item}})
	if err != nil {
		return err
	}
	from, to := e.itemSpan(list, i)
	text = strings.ReplaceAll(indented(text, strings.Repeat(" ", e.column(e.dash(list.Content[i])))), "\n", e.newline)
	if to == len(e.src) && e.src[to-1] != '\n' {
		text = strings.TrimSuffix(text, e.newline)
	}
	e.replace(from, to, text)
	return nil
}

// addFlow puts text behind the bracket that begins a flow collection.
func (e *editor) addFlow(n *yaml.Node, text string) error {
	at := e.offset(n) + 1
	if len(n.Content) > 0 {
		text += ", "
	}
	e.replace(at, at, text)
	return nil
}

// fillNull gives a key without a value one.
func (e *editor) fillNull(key, null, value *yaml.Node) error {
	switch {
	case key == nil:
		return fmt.Errorf("line %d: it is empty", null.Line)
	case null.ShortTag() != "!!null" && null.Kind == yaml.ScalarNode:
		return fmt.Errorf("line %d: %s has a text for a value", null.Line, printable.Word(key.Value))
	}
	if null.Value != "" && inFlow(e.root, key) {
		asJSON, err := encodeJSON(value)
		if err != nil {
			return err
		}
		from := e.offset(null)
		e.replace(from, from+len(null.Value), string(asJSON))
		return nil
	}
	text, err := e.encode(value)
	if err != nil {
		return err
	}
	if null.Value != "" { // null, ~
		from := e.offset(null)
		e.replace(from, from+len(null.Value), "")
	}
	indent := strings.Repeat(" ", e.column(e.offset(key)))
	if value.Kind == yaml.MappingNode || !e.compact {
		indent += "  "
	}
	e.insertLines(key.Line, indented(text, indent))
	return nil
}

// setScalar replaces a scalar's text.
func (e *editor) setScalar(n *yaml.Node, text string) {
	from := e.offset(n)
	to := from + len(n.Value)
	if c := e.src[from]; c == '"' || c == '\'' {
		to = e.flowEnd(from)
		text = string(c) + text + string(c)
	}
	e.replace(from, to, text)
}

// encode is a node as block YAML, with a newline at its end.
func (e *editor) encode(n *yaml.Node) (string, error) {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if e.compact {
		enc.CompactSeqIndent()
	}
	if err := enc.Encode(n); err != nil {
		return "", err
	}
	return b.String(), enc.Close()
}

// encodeJSON is a node as JSON in a line, which is YAML's flow style, too.
func encodeJSON(n *yaml.Node) ([]byte, error) {
	text, err := yaml.Marshal(n)
	if err != nil {
		return nil, err
	}
	return kyaml.YAMLToJSON(text)
}

func scalar(text string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Value: text} }

// indented puts indent before each line.
func indented(text, indent string) string {
	lines := strings.SplitAfter(text, "\n")
	for i, l := range lines {
		if strings.TrimSpace(l) != "" {
			lines[i] = indent + l
		}
	}
	return strings.Join(lines, "")
}

// compact reports whether the first list that is a key's value is written without
// indentation of its own, or there is none.
func compact(n *yaml.Node) bool {
	found := true
	var walk func(*yaml.Node) bool
	walk = func(n *yaml.Node) bool {
		for i, c := range n.Content {
			if n.Kind == yaml.MappingNode && i%2 == 1 && c.Kind == yaml.SequenceNode && c.Style&yaml.FlowStyle == 0 {
				found = c.Column == n.Content[i-1].Column
				return true
			}
			if walk(c) {
				return true
			}
		}
		return false
	}
	walk(n)
	return found
}
