// Package term writes reports that people read: marked lines of at most 80
// columns, coloured only where a terminal shows them.
package term

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// Width is how many columns a line has at most.
const Width = 80

// Mark is what a line begins with.
type Mark string

// The marks. Each is one column wide.
const (
	OK   Mark = "√" // as it should be
	Bad  Mark = "×" // a fault
	Note Mark = "!" // worth knowing, or not known
	None Mark = " " // goes on with the line before
)

// Writer writes lines. What they say must be printable: it is not changed.
type Writer struct {
	to     io.Writer
	colour bool
	err    error
}

// New returns a Writer to w. It colours if w is a terminal, NO_COLOR is not set
// (no-color.org) and TERM is not "dumb".
func New(w io.Writer, getenv func(string) string) *Writer {
	f, ok := w.(*os.File)
	if ok {
		_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
		ok = err == nil
	}
	return &Writer{to: w, colour: ok && getenv("NO_COLOR") == "" && getenv("TERM") != "dumb"}
}

// Err is the first error of writing.
func (w *Writer) Err() error { return w.err }

// Head writes a line without a mark, in bold.
func (w *Writer) Head(format string, args ...any) {
	w.lines("", bold, "", fmt.Sprintf(format, args...))
}

// Text writes a line without a mark.
func (w *Writer) Text(format string, args ...any) {
	w.lines("", "", "", fmt.Sprintf(format, args...))
}

// Line writes a line with its mark. What does not fit goes on below, indented
// under the text; it is broken at spaces only.
func (w *Writer) Line(m Mark, format string, args ...any) {
	w.lines(" "+string(m)+" ", colours[m], "   ", fmt.Sprintf(format, args...))
}

// Row writes a line with its mark and a first column. What does not fit of the text
// goes on below, under the text.
func (w *Writer) Row(m Mark, column, format string, args ...any) {
	lead := " " + string(m) + " " + column
	w.lines(lead, colours[m], strings.Repeat(" ", utf8.RuneCountInString(lead)), fmt.Sprintf(format, args...))
}

// Command writes a line for a person to copy: it is never broken.
func (w *Writer) Command(indent, text string) {
	if w.err == nil {
		_, w.err = io.WriteString(w.to, indent+text+"\n")
	}
}

const (
	bold  = "\x1b[1m"
	reset = "\x1b[0m"
)

var colours = map[Mark]string{OK: "\x1b[32m", Bad: "\x1b[31m", Note: "\x1b[33m"}

// lines writes text after lead and in further lines after indent, which is as
// wide. The colour is the lead's or, if there is none, the text's.
func (w *Writer) lines(lead, colour, indent, text string) {
	for _, part := range wrap(text, Width-len(indent)) {
		var line string
		switch {
		case !w.colour || colour == "":
			line = lead + part
		case lead != "":
			line = colour + lead + reset + part
		default:
			line = colour + part + reset
		}
		if w.err == nil {
			_, w.err = io.WriteString(w.to, line+"\n")
		}
		if lead != "" {
			lead, colour = indent, ""
		}
	}
}

// wrap breaks text at spaces into parts of at most width columns. A longer word
// stays whole, and so do the spaces between columns of a part.
func wrap(text string, width int) (parts []string) {
	for utf8.RuneCountInString(text) > width {
		fits := string([]rune(text)[:width+1])
		cut := strings.LastIndexByte(fits, ' ')
		if cut < 0 || strings.TrimSpace(text[:cut]) == "" { // the first word is too long
			word := strings.TrimLeft(text, " ")
			end := strings.IndexByte(word, ' ')
			if end < 0 {
				break
			}
			cut = len(text) - len(word) + end
		}
		parts = append(parts, strings.TrimRight(text[:cut], " "))
		text = strings.TrimLeft(text[cut:], " ")
	}
	return append(parts, strings.TrimRight(text, " "))
}
