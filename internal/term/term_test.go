package term

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

func none(string) string { return "" }

// TestLines: what is long goes on under its text, no line is wider than Width
// unless a word is, and nothing is lost.
func TestLines(t *testing.T) {
	var b bytes.Buffer
	w := New(&b, none)
	word := strings.Repeat("x", 100)
	w.Head("node n1  plugin 0.2.0")
	w.Line(OK, "one %s", "two")
	w.Line(Bad, "%s", strings.Repeat("word ", 40)+"end")
	w.Line(Note, "%s %s %s", word, word, "end")
	w.Text("pods  6  %s", strings.Repeat("y ", 50))
	w.Row(Bad, "SYN  ", "%s", strings.Repeat("z", 70)+" end")
	w.Command("     ", "printf "+strings.Repeat("c ", 50))
	got := b.String()
	if !strings.Contains(got, "\n × SYN  zzz") || !strings.Contains(got, "z\n        end\n     printf c c ") {
		t.Errorf("rows and commands:\n%s", got)
	}
	if !strings.HasPrefix(got, "node n1  plugin 0.2.0\n √ one two\n × word word ") || w.Err() != nil {
		t.Errorf("%v:\n%s", w.Err(), got)
	}
	for line := range strings.Lines(got) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > Width && !strings.Contains(line, word) && !strings.Contains(line, "printf") {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	if n := strings.Count(got, "word"); n != 40 || strings.Count(got, word) != 2 || strings.Contains(got, "\x1b") {
		t.Errorf("%d words:\n%s", n, got)
	}
	if !strings.Contains(got, "\n ! "+word+"\n   "+word+"\n   end\n") || !strings.Contains(got, "\n   word ") {
		t.Errorf("not under its text:\n%s", got)
	}
}

// TestColours: a terminal has them unless the environment says otherwise.
func TestColours(t *testing.T) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	env := map[string]string{}
	getenv := func(name string) string { return env[name] }
	shown := func() string {
		var b bytes.Buffer
		w := New(terminal, getenv)
		w.to = &b
		w.Line(Bad, "a fault")
		w.Head("a head")
		return b.String()
	}
	if got := shown(); got != "\x1b[31m × \x1b[0ma fault\n\x1b[1ma head\x1b[0m\n" {
		t.Errorf("%q", got)
	}
	for name, value := range map[string]string{"NO_COLOR": "1", "TERM": "dumb"} {
		env = map[string]string{name: value}
		if got := shown(); got != " × a fault\na head\n" {
			t.Errorf("%s: %q", name, got)
		}
	}
}
