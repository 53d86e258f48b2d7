// Package printable makes untrusted text safe to show: annotations, file names,
// messages of other programs and of the kernel. The result is printable ASCII of
// a bounded length. So the text cannot add a line to a log, move a terminal's
// cursor or reverse its writing direction; a letter that only looks like another
// one is visible; and no error exceeds what an event, a log line or a probe's
// response can hold.
package printable

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	// MaxValue is about how long Quote, Word and Short make one text.
	MaxValue = 100
	// MaxItems is how many List shows.
	MaxItems = 10
	// MaxLine is how long Line makes a message, in bytes.
	MaxLine = 4096
)

// Quote is s in quotes, in Go's syntax. A long s is cut, with its length behind.
func Quote(s string) string {
	text, taken := escape(s, MaxValue, true)
	if taken < len(s) {
		return `"` + text + `"` + more(s)
	}
	return `"` + text + `"`
}

// Word is s itself if it is one plain word, as most names are, and otherwise
// Quote of it.
func Word(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-+/:@~", r)
	}
	if s == "" || len(s) > MaxValue || strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return Quote(s)
	}
	return s
}

// Short is s without quotes, on one line: for text with a syntax of its own, such
// as JSON.
func Short(s string) string { return line(s, MaxValue) }

// Line is a whole message on one line, for the point where it leaves the program;
// untrusted parts should be quoted where the message is made. It is idempotent.
func Line(s string) string { return line(s, MaxLine) }

func line(s string, most int) string {
	s = strings.ReplaceAll(strings.TrimSpace(s), "\n", "; ")
	if text, taken := escape(s, most, false); taken == len(s) {
		return text
	}
	text, _ := escape(s, most-len(more(s)), false)
	return text + more(s)
}

// List joins the first MaxItems texts and counts the rest.
func List(texts []string, separator string) string {
	if rest := len(texts) - MaxItems; rest > 0 {
		return strings.Join(texts[:MaxItems], separator) + fmt.Sprintf("%sand %d more", separator, rest)
	}
	return strings.Join(texts, separator)
}

func more(s string) string { return fmt.Sprintf("... (%d bytes)", len(s)) }

// escape writes s as printable ASCII in Go's syntax, up to a length, and returns
// how many bytes of s that took. It never cuts an escape sequence.
func escape(s string, most int, quoted bool) (text string, taken int) {
	var b strings.Builder
	for taken < len(s) {
		r, size := utf8.DecodeRuneInString(s[taken:])
		piece := s[taken : taken+size]
		switch {
		case r == utf8.RuneError && size == 1:
			piece = fmt.Sprintf(`\x%02x`, piece[0])
		case quoted && (r == '"' || r == '\\'):
			piece = `\` + piece
		case r < ' ' || r > '~':
			piece = strings.Trim(strconv.QuoteRuneToASCII(r), "'")
		}
		if b.Len()+len(piece) > most {
			break
		}
		b.WriteString(piece)
		taken += size
	}
	return b.String(), taken
}
