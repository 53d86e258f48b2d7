package explain

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/internal/term"
)

// JSON writes the report as one object.
func (r Report) JSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// Print writes the report of these facts for people: at most 80 columns, in colours on
// a terminal.
func Print(w io.Writer, getenv func(string) string, f Facts) error {
	r, t := New(f), term.New(w, getenv)
	r.printChecks(t)
	if f.Story != nil {
		printStory(t, *f.Story)
	}
	printVerdict(t, r.Verdict, r.Next)
	return t.Err()
}

// printChecks writes all but the story and what follows from it.
func (r Report) printChecks(t *term.Writer) {
	t.Head("%s", r.head())
	for _, c := range r.Checks {
		t.Line(c.mark(), "%s", c.Text)
	}
	column := "counters  "
	for group := range slices.Chunk(r.Counters, 4) { // the first are those that count what is usual
		var parts []string
		for _, c := range group {
			parts = append(parts, fmt.Sprintf("%s %d", c.Name, c.Packets))
		}
		t.Row(term.None, column, "%s", strings.Join(parts, ", "))
		column = "          "
	}
}

func printVerdict(t *term.Writer, v Verdict, next Next) {
	t.Row(verdictMark[v.State], "VERDICT   ", "%s", v.Text)
	t.Row(term.None, "NEXT      ", "%s", next.Text)
	if next.Command != "" {
		t.Command("             ", next.Command)
	}
}

var verdictMark = map[State]term.Mark{Fine: term.OK, Fault: term.Bad, Unclear: term.Note}

// head is the report's first line.
func (r Report) head() string {
	name := r.NetNS
	if r.Name != "" {
		name = r.Namespace + "/" + r.Name
	}
	parts := []string{name, r.Mode}
	if r.Node != "" {
		parts = append(parts, "node "+r.Node)
	}
	var addrs []string
	for _, a := range r.Addresses {
		addrs = append(addrs, a.String())
	}
	parts = append(parts, strings.Join(addrs, " "))
	for _, v := range []struct{ program, version string }{{"plugin", r.Plugin}, {"sidecar", r.Sidecar}} {
		if v.version != "" { // without the commit and the release of Go behind it
			number, _, _ := strings.Cut(v.version, " ")
			parts = append(parts, v.program+" "+number)
		}
	}
	return strings.Join(parts, "  ")
}

// printStory writes the story of one connection.
func printStory(t *term.Writer, s Story) {
	kind := ""
	if s.Synthetic {
		kind = " (by this command: it connects and closes, without data)"
	}
	t.Row(term.None, "story     ", "%s > %s%s", s.Client, s.Server, kind)
	for _, line := range s.Tell() {
		mark := term.None
		if line.Bad {
			mark = term.Bad
		}
		t.Row(mark, fmt.Sprintf("  %-7s %-5s ", line.Kind, line.Where), "%s", line.What)
	}
}
