package report

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// writer writes the parts of a document.
type writer struct {
	to      io.Writer
	colours bool
}

func (w *writer) paint(colour, text string) string {
	if !w.colours {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

func (w *writer) line(format string, a ...any) { fmt.Fprintf(w.to, format+"\n", a...) }

// heading begins a part.
func (w *writer) heading(name, rest string) {
	w.line("\n%s", strings.TrimRight(w.paint(bold, name)+"  "+printable.Line(rest), " "))
}

// The signs before a check.
const (
	good = "\u221a" // square root, which every font has that has a check mark
	fail = "\u00d7"
	warn = "!"
)

// sign is one of these in its colour.
func (w *writer) sign(sign string) string {
	return w.paint(map[string]string{good: green, fail: red, warn: yellow}[sign], sign)
}

// check writes a line with a sign, wrapped.
func (w *writer) check(sign, text string) {
	for i, part := range wrap(printable.Line(text), width-4) {
		if i == 0 {
			w.line(" %s %s", w.sign(sign), part)
		} else {
			w.line("   %s", part)
		}
	}
}

// fact writes a name with what is to be said of it, wrapped; nothing if that is nothing.
func (w *writer) fact(name, text string) {
	for i, part := range wrap(printable.Line(text), width-14) {
		if i > 0 {
			name = ""
		}
		w.line("   %s %s", w.paint(faint, fmt.Sprintf("%-9s", name)), part)
	}
}

// wrap breaks a text at spaces into lines of most columns, if its words allow.
func wrap(text string, most int) (lines []string) {
	for word := range strings.FieldsSeq(text) {
		if n := len(lines); n > 0 && len(lines[n-1])+1+len(word) <= most {
			lines[n-1] += " " + word
		} else {
			lines = append(lines, word)
		}
	}
	return lines
}

// span is a time in two units.
func span(seconds float64) string {
	t := time.Duration(seconds * float64(time.Second))
	switch {
	case t < time.Minute:
		return fmt.Sprintf("%d s", max(0, int(t.Seconds())))
	case t < time.Hour:
		return fmt.Sprintf("%d min", int(t.Minutes()))
	case t < 24*time.Hour:
		return fmt.Sprintf("%d h %d min", int(t.Hours()), int(t.Minutes())%60)
	}
	return fmt.Sprintf("%d d %d h", int(t.Hours())/24, int(t.Hours())%24)
}

// age is a time in one unit.
func age(seconds float64) string {
	t := time.Duration(seconds * float64(time.Second))
	switch {
	case t < time.Hour:
		return span(seconds)
	case t < 48*time.Hour:
		return fmt.Sprintf("%d h", int(t.Hours()))
	}
	return fmt.Sprintf("%d d", int(t.Hours())/24)
}

// size is a number of bytes in three digits.
func size(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n), -1
	for f >= 999.5 && unit < 4 {
		f /= 1000
		unit++
	}
	if f < 9.95 {
		return fmt.Sprintf("%.1f %cB", f, "kMGTP"[unit])
	}
	return fmt.Sprintf("%.0f %cB", f, "kMGTP"[unit])
}
