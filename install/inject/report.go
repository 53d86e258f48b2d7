package inject

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// report is what a person should know of.
type report struct {
	to io.Writer

	added, updated, same, alone, removed int

	unknown []string // kinds
}

func (r *report) note(text string) {
	if r.to != nil {
		fmt.Fprintln(r.to, printable.Line(text))
	}
}

// kind takes note of a kind that is not known.
func (r *report) kind(name string) {
	if !slices.Contains(r.unknown, name) {
		r.unknown = append(r.unknown, name)
	}
}

// summary is the last line: how many pods were what.
func (r *report) summary(undo bool) {
	var parts []string
	count := func(n int, what string) {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, what))
		}
	}
	if undo {
		count(r.removed, "without the sidecar now")
		count(r.same, "had none")
	} else {
		count(r.added, "with the sidecar now")
		count(r.updated, "brought up to date")
		count(r.same, "had it")
	}
	count(r.alone, "left alone")
	text := "pods: none"
	if len(parts) > 0 {
		text = "pods: " + strings.Join(parts, ", ")
	}
	if len(r.unknown) > 0 {
		text += "; kinds that are not known, as they were: " + printable.List(r.unknown, ", ")
	}
	r.note(text)
}
