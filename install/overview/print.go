package overview

import (
	"fmt"
	"io"

	"github.com/tproxy-cni/tproxy-cni/internal/term"
)

var marks = map[Verdict]term.Mark{OK: term.OK, Fault: term.Bad, Note: term.Note, Unknown: term.Note}

// Print writes the report for people.
func (r Report) Print(to io.Writer, getenv func(string) string) error {
	w := term.New(to, getenv)
	line := func(prefix string, l Line) {
		w.Line(marks[l.Verdict], "%s%s", prefix, l.Text)
		if l.Next != "" {
			w.Line(term.None, "NEXT %s", l.Next)
		}
	}
	w.Head("node %s  tproxy-install %s", r.Node.Name, r.Node.InstallerVersion)
	for _, c := range r.Node.Checks {
		line("", c.Line)
	}
	line("", r.Runtime.Line)
	if len(r.Pods) > 0 {
		w.Head("pods")
	}
	for _, p := range r.Pods {
		line(fmt.Sprintf("%s/%s  %s  ", p.Namespace, p.Name, p.Mode), p.Line)
	}
	w.Head("%s", r.Summary.text(r.Runtime.Verdict == OK))
	return w.Err()
}

// text is the summary in a line. known says that the pods are.
func (s Summary) text(known bool) string {
	count := func(n int, what string) string {
		if n == 1 {
			return fmt.Sprintf("1 %s", what)
		}
		return fmt.Sprintf("%d %ss", n, what)
	}
	text := "pods unknown"
	switch {
	case known && s.Pods == 0:
		text = "no pod asks for interception"
	case known:
		text = fmt.Sprintf("%s, %d intercepted", count(s.Pods, "pod"), s.Intercepted)
	}
	text += ", " + count(s.Faults, "fault")
	if s.Unknown > 0 {
		text += fmt.Sprintf(", %d unknown", s.Unknown)
	}
	return text
}
