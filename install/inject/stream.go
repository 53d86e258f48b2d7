package inject

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// This file takes a file apart as kubectl does, and refuses by name what would get
// lost on the way.

// File is one input.
type File struct {
	Name string // for errors; empty for standard input
	Text []byte
}

// part is one document of a file, which may begin with its separator.
type part struct {
	text []byte
	line int // its first line in the file, from 1
}

const bom = "\ufeff"

// decode returns the text as UTF-8 without a byte order mark, and whether it had one at
// its beginning.
func decode(text []byte) (utf8Text []byte, marked bool, err error) {
	switch {
	case bytes.HasPrefix(text, []byte{0, 0, 0xfe, 0xff}), bytes.HasPrefix(text, []byte{0xff, 0xfe, 0, 0}):
		return nil, false, errors.New("it is UTF-32, which Kubernetes does not read: save it as UTF-8")
	case bytes.HasPrefix(text, []byte{0xff, 0xfe}), bytes.HasPrefix(text, []byte{0xfe, 0xff}):
		if len(text)%2 != 0 {
			return nil, false, errors.New("it is UTF-16 with half a character at its end: save it as UTF-8")
		}
		units := make([]uint16, 0, len(text)/2)
		for i := 2; i < len(text); i += 2 {
			high, low := text[i], text[i+1]
			if text[0] == 0xff {
				high, low = low, high
			}
			units = append(units, uint16(high)<<8|uint16(low))
		}
		return []byte(string(utf16.Decode(units))), true, nil
	case !utf8.Valid(text):
		return nil, false, errors.New("it is not UTF-8: save it as UTF-8")
	}
	utf8Text, marked = bytes.CutPrefix(text, []byte(bom))
	return utf8Text, marked, nil
}

// documents cuts a text into documents: JSON values that follow one another, or YAML
// before each line that separates two documents. Such a line cannot be part of a
// document, not even of a block of text.
func documents(text []byte) []part {
	if parts := values(text); parts != nil {
		return parts
	}
	var parts []part
	start, first, line := 0, 1, 0
	for pos := 0; pos < len(text); {
		end := len(text)
		if i := bytes.IndexByte(text[pos:], '\n'); i >= 0 {
			end = pos + i + 1
		}
		line++
		rest, ok := bytes.CutPrefix(bytes.TrimRight(text[pos:end], "\r\n"), []byte("---"))
		if !ok { // two files that were put together
			rest, ok = bytes.CutPrefix(bytes.TrimRight(text[pos:end], "\r\n"), []byte(bom+"---"))
		}
		if ok && pos > start && (len(rest) == 0 || rest[0] == ' ' || rest[0] == '\t') {
			parts = append(parts, part{text[start:pos], first})
			start, first = pos, line
		}
		pos = end
	}
	return append(parts, part{text[start:], first})
}

// values cuts a stream of JSON objects, of which each takes the space behind it; nil if
// the text is none.
func values(text []byte) (parts []part) {
	if !bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(text))
	start := 0
	for {
		var v json.RawMessage
		if err := d.Decode(&v); errors.Is(err, io.EOF) {
			return parts
		} else if err != nil {
			return nil
		}
		end := int(d.InputOffset())
		for end < len(text) && strings.IndexByte(" \t\r\n", text[end]) >= 0 {
			end++
		}
		parts = append(parts, part{text[start:end], 1 + bytes.Count(text[:start], []byte("\n"))})
		start = end
	}
}

// withoutBOM is a document without a byte order mark before its separator or at the
// beginning of its content. One at another line's beginning is a fault: it would become
// a part of a key, which would then be another.
func withoutBOM(p part) (text []byte, err error) {
	content := false // something other than the separator, comments and blank lines came before
	var out []byte
	for i, line := range bytes.SplitAfter(p.text, []byte("\n")) {
		bare, ok := bytes.CutPrefix(line, []byte(bom))
		switch {
		case ok && content:
			return nil, fmt.Errorf("line %d: a byte order mark (U+FEFF) in the middle of a document: remove it, or put --- before it", p.line+i)
		case ok:
			line = bare
		}
		out = append(out, line...)
		t := bytes.TrimSpace(line)
		content = content || len(t) > 0 && t[0] != '#' && !bytes.HasPrefix(t, []byte("---"))
	}
	return out, nil
}
