package inject

import (
	"bytes"
	"strings"

	"go.yaml.in/yaml/v3"
)

// This file finds where things end, which the tree does not say, and takes them out.

// dash is the offset of the dash before an element, which may be on a line before it.
func (e *editor) dash(item *yaml.Node) int {
	at := e.position(item)
	line := e.lineOf(at)
	if i := bytes.LastIndexByte(e.src[e.lines[line]:at], '-'); i >= 0 {
		return e.lines[line] + i
	}
	for line--; line >= 0; line-- {
		text := e.src[e.lines[line]:e.lines[line+1]]
		rest := bytes.TrimSpace(text)
		switch {
		case len(rest) == 0 || rest[0] == '#':
			continue
		case rest[0] == '-':
			return e.lines[line] + bytes.IndexByte(text, '-')
		default:
			return at
		}
	}
	return at
}

// itemSpan is where an element of a block list is, whole lines.
func (e *editor) itemSpan(list *yaml.Node, i int) (from, to int) {
	dash := e.dash(list.Content[i])
	return e.lines[e.lineOf(dash)], e.blockEnd(dash, list.Content[i], false)
}

// blockEnd is the end of the block that begins at an offset and is, or has as its value,
// the node n: of the last line that is indented more and no comment. sameToo adds the
// lines with a dash at the same indentation.
func (e *editor) blockEnd(at int, n *yaml.Node, sameToo bool) int {
	leaf := n
	for len(leaf.Content) > 0 && !flow(leaf) {
		leaf = leaf.Content[len(leaf.Content)-1]
	}
	column, last := e.column(at), e.lineOf(at)
	if flow(leaf) || leaf.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 {
		last = max(last, e.lineOf(e.flowEnd(e.offset(leaf))-1))
	}
	blockText := leaf.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0
	for i := last + 1; i < len(e.lines); i++ {
		text := e.src[e.startOf(i):e.startOf(i+1)]
		bare := bytes.TrimLeft(text, " ")
		rest := bytes.TrimSpace(bare)
		indent := len(text) - len(bare)
		inText := blockText && i >= leaf.Line && indent > column // where # begins no comment
		if len(rest) == 0 || rest[0] == '#' && !inText {
			continue
		}
		if indent > column || sameToo && indent == column && (len(rest) == 1 || rest[1] == ' ') && rest[0] == '-' {
			last = i
			continue
		}
		break
	}
	return e.startOf(last + 1)
}

// flowEnd is the end of the flow node at an offset.
func (e *editor) flowEnd(at int) int {
	depth := 0
	for i := at; i < len(e.src); i++ {
		switch c := e.src[i]; {
		case (c == '"' || c == '\'') && (i == at || strings.IndexByte("[{,: \t\r\n", e.src[i-1]) >= 0):
			i = e.quoteEnd(i)
			if depth == 0 {
				return i + 1
			}
		case c == '[' || c == '{':
			depth++
		case c == ']' || c == '}':
			if depth--; depth == 0 {
				return i + 1
			} else if depth < 0 {
				return at + len(bytes.TrimRight(e.src[at:i], " \t\r\n"))
			}
		case c == ',' && depth == 0:
			return i
		case c == '#' && i > 0 && strings.IndexByte(" \t\n", e.src[i-1]) >= 0:
			for i+1 < len(e.src) && e.src[i+1] != '\n' {
				i++
			}
		}
	}
	return len(e.src)
}

// quoteEnd is the offset of the quote that ends the scalar whose first is at an offset.
func (e *editor) quoteEnd(at int) int {
	quote := e.src[at]
	for i := at + 1; i < len(e.src); i++ {
		switch {
		case e.src[i] == '\\' && quote == '"':
			i++
		case e.src[i] == quote && quote == '\'' && i+1 < len(e.src) && e.src[i+1] == quote:
			i++
		case e.src[i] == quote:
			return i
		}
	}
	return len(e.src) - 1
}

// removeKey takes the key at position i of a mapping out, with its value.
func (e *editor) removeKey(mapping *yaml.Node, i int) {
	key, value := mapping.Content[i], mapping.Content[i+1]
	if flow(mapping) {
		e.removeFlow(mapping.Content, i, 2)
		return
	}
	from := e.offset(key)
	to := e.blockEnd(from, value, value.Kind == yaml.SequenceNode && !flow(value))
	line := e.lines[e.lineOf(from)]
	switch {
	case len(bytes.TrimSpace(e.src[line:from])) == 0:
		e.cut(line, to)
	case i+2 < len(mapping.Content): // beside a dash
		e.replace(from, e.offset(mapping.Content[i+2]), "")
	default:
		e.replace(from, to, "{}"+e.newline)
	}
}

// removeItems takes the elements of a list, the value of key i of a mapping, out, of
// which gone says so. A list that loses all of its elements goes, too, unless somebody
// wrote an empty one.
func (e *editor) removeItems(mapping *yaml.Node, i int, gone func(i int) bool) {
	list := resolve(mapping.Content[i])
	left := -1 // the last that stays
	for j := range list.Content {
		if !gone(j) {
			left = j
		}
	}
	if left < 0 && e.ownKey(mapping, i-1) {
		e.removeKey(mapping, i-1)
		return
	}
	if left < 0 {
		from := e.offset(list)
		e.replace(from+1, e.flowEnd(from)-1, "")
		return
	}
	for j := 0; j < len(list.Content); j++ {
		switch {
		case !gone(j):
		case !flow(list):
			from, to := e.itemSpan(list, j)
			for j+1 < len(list.Content) && gone(j+1) { // neighbours together: cut may need the line before
				next, end := e.itemSpan(list, j+1)
				if next != to {
					break
				}
				j, to = j+1, end
			}
			e.cut(from, to)
		case j < left:
			e.removeFlow(list.Content, j, 1)
		case j == left+1:
			e.replace(e.flowEnd(e.offset(list.Content[left])), e.flowEnd(e.offset(list.Content[len(list.Content)-1])), "")
		}
	}
}

// ownKey reports whether a key whose value is empty now is one that inject adds: in
// block style, or the first of a mapping in flow style, volumes behind initContainers.
func (e *editor) ownKey(mapping *yaml.Node, i int) bool {
	if flow(mapping) {
		return i == 0 || i == 2 && mapping.Content[0].Value == "initContainers"
	}
	return !flow(resolve(mapping.Content[i+1]))
}

// cut removes whole lines; the last of a file without a newline at its end takes that of
// the line before with it.
func (e *editor) cut(from, to int) {
	if to == len(e.src) && from > 0 && to > from && e.src[to-1] != '\n' {
		from--
		if from > 0 && e.src[from-1] == '\r' {
			from--
		}
	}
	e.replace(from, to, "")
}

// removeFlow removes n nodes from the content of a flow collection, with a comma.
func (e *editor) removeFlow(content []*yaml.Node, i, n int) {
	from := e.offset(content[i])
	to := e.flowEnd(e.offset(content[i+n-1]))
	switch {
	case i+n < len(content):
		to = bytes.IndexByte(e.src[to:], ',') + to + 1
		if to < len(e.src) && e.src[to] == ' ' {
			to++
		}
	case i > 0:
		from = e.flowEnd(e.offset(content[i-1]))
	}
	e.replace(from, to, "")
}
