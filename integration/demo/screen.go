package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// screen is where the demo prints.
type screen struct {
	w      io.Writer
	width  int // columns
	colour bool
}

func newScreen(f *os.File) *screen {
	s := &screen{w: f, width: 80}
	if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil {
		s.colour = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
		if size.Col > 0 {
			s.width = min(int(size.Col), 100)
		}
	}
	return s
}

// style is an SGR parameter; 0 is none.
type style int

const (
	bold   style = 1
	dim    style = 2
	red    style = 31
	green  style = 32
	yellow style = 33
	cyan   style = 36
)

func (s *screen) paint(text string, st style) string {
	if st == 0 || !s.colour || text == "" {
		return text
	}
	return fmt.Sprintf("\x1b[%dm%s\x1b[0m", st, text)
}

// cell is a piece of a table's line.
type cell struct {
	text  string
	style style
}

// columns are the widths of the table, whose lines are printed one by one as the
// results come.
var columns = []int{6, 4, 4, 17, 17, 13, 4}

// line prints a line of the table, aligned. It fits 80 columns, and 70 with
// narrow gaps.
func (s *screen) line(cells ...cell) {
	s.cells(columns, cells)
}

func (s *screen) cells(widths []int, cells []cell) {
	gap := "  "
	if s.width < 80 {
		gap = " "
	}
	var b strings.Builder
	for i, c := range cells {
		b.WriteString(gap)
		b.WriteString(s.paint(c.text, c.style))
		if pad := widths[i] - utf8.RuneCountInString(c.text); pad > 0 && i < len(cells)-1 {
			b.WriteString(strings.Repeat(" ", pad))
		}
	}
	fmt.Fprintln(s.w, b.String())
}

// head prints a heading.
func (s *screen) head(text string) {
	fmt.Fprintf(s.w, "\n%s\n\n", s.paint(text, bold))
}

// wrap prints words in the screen's width, the first line and the others behind
// their own indentation.
func (s *screen) wrap(first, others, text string, st style) {
	line, used := first, utf8.RuneCountInString(first)
	empty := true
	flush := func() {
		indent := len(line) - len(strings.TrimLeft(line, " "))
		fmt.Fprintln(s.w, line[:indent]+s.paint(line[indent:], st))
	}
	for _, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		if !empty && used+1+n > s.width {
			flush()
			line, used, empty = others, utf8.RuneCountInString(others), true
		}
		if !empty {
			line, used = line+" ", used+1
		}
		line, used, empty = line+word, used+n, false
	}
	flush()
}
