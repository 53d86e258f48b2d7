package explain

import (
	"fmt"
	"io"

	"github.com/tproxy-cni/tproxy-cni/internal/term"
)

// Watcher prints connections as they come.
type Watcher struct {
	t           *term.Writer
	seen, wrong int
	next        Next // for the last that went wrong
}

// Watch prints what is known before, and returns a Watcher for what comes.
func Watch(w io.Writer, getenv func(string) string, f Facts) *Watcher {
	watcher := &Watcher{t: term.New(w, getenv), next: nothing}
	New(f).printChecks(watcher.t)
	watcher.t.Line(term.None, "follows connections as they come; Ctrl-C ends it")
	return watcher
}

// Tell prints one connection and what became of it. The facts are those of its time.
func (w *Watcher) Tell(f Facts, s *Story) {
	v, next := JudgeStory(f, s)
	printStory(w.t, *s)
	w.t.Row(verdictMark[v.State], "  ", "%s", v.Text)
	w.seen++
	if v.State == Fault {
		w.wrong++
		w.next = next
	}
}

// End prints the verdict on all and returns the exit status of Report.Status. lost is
// how often not all could be followed.
func (w *Watcher) End(lost int) (int, error) {
	if lost > 0 {
		w.t.Line(term.Note, "more came than could be followed; some packets are not told")
	}
	v := Verdict{State: Fine, Text: fmt.Sprintf("%d connections followed, all as they should be", w.seen)}
	switch {
	case w.seen == 0:
		v, w.next = Verdict{State: Unclear, Text: "no connection came"}, Next{Text: "let a client connect while this runs"}
	case w.wrong > 0:
		v = Verdict{State: Fault, Text: fmt.Sprintf("%d of %d connections went wrong", w.wrong, w.seen)}
	}
	printVerdict(w.t, v, w.next)
	return Report{Verdict: v}.Status(), w.t.Err()
}
