// Package results shows what was measured: tables for the terminal and for documents, and
// the machine.
package results

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Table is shown on the terminal and in Markdown. One without rows is not
// shown.
type Table struct {
	Title string // none if empty
	Head  []string
	Rows  [][]string
}

// Text writes the table with its columns aligned.
func (t Table) Text(w io.Writer) error {
	if len(t.Rows) == 0 {
		return nil
	}
	t.title(w)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, row := range append([][]string{t.Head}, t.Rows...) {
		fmt.Fprintln(tw, strings.Join(row, "\t")+"\t")
	}
	return tw.Flush()
}

// Markdown writes the table for a document.
func (t Table) Markdown(w io.Writer) {
	if len(t.Rows) == 0 {
		return
	}
	line := func(cells []string) { fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | ")) }
	t.title(w)
	line(t.Head)
	fmt.Fprintln(w, "|---"+strings.Repeat("|--:", len(t.Head)-1)+"|")
	for _, row := range t.Rows {
		line(row)
	}
}

func (t Table) title(w io.Writer) {
	if t.Title != "" {
		fmt.Fprintf(w, "\n%s\n\n", t.Title)
	}
}
