// Command faults reads the output of `go test -v` and prints a line for each fault that
// the tests have injected: how often, and what was lost. `make faults` runs it.
//
//	go test -v … | faults [--page RELIABILITY.md]
//
// With --page it puts the table into a page, if no test has failed. Its exit status is 1 if
// one has, and then it prints the whole output, too.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/tproxy-cni/tproxy-cni/integration/results"
)

// What the page has around the table.
const (
	pageBegin = "<!-- faults: what follows is written by make faults -->\n"
	pageEnd   = "<!-- faults: end -->\n"
)

func main() {
	page := flag.String("page", "", "put the table into this `file`, between its markers")
	flag.Parse()
	if err := run(os.Stdin, os.Stdout, *page); err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer, page string) error {
	faults, output, err := read(in)
	if err != nil {
		fmt.Fprint(out, output)
		return err
	}
	table := tableOf(faults)
	if err := table.Text(out); err != nil || page == "" {
		return err
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s:\n\n", results.ThisMachine().On(time.Now().UTC()))
	table.Markdown(&text)
	return results.Insert(page, pageBegin, pageEnd, text.String())
}

// read returns the faults in the order in which they came first, those of one name and
// kind of loss added up, and all of the output. The error says that a test has failed or
// was skipped, or that nothing was injected.
func read(in io.Reader) (faults []results.Fault, output string, err error) {
	var all strings.Builder
	var wrong []error
	at := map[[2]string]int{} // by name and what was lost
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		fmt.Fprintln(&all, line)
		f, found, err := results.ReadFault(line)
		switch {
		case err != nil:
			wrong = append(wrong, err)
		case found && f.Injected == 0:
			wrong = append(wrong, fmt.Errorf("%s: injected nothing", f.Name))
		case found:
			key := [2]string{f.Name, f.What}
			if _, known := at[key]; !known {
				at[key] = len(faults)
				faults = append(faults, results.Fault{Name: f.Name, What: f.What})
			}
			sum := &faults[at[key]]
			sum.Injected, sum.Lost, sum.Of = sum.Injected+f.Injected, sum.Lost+f.Lost, sum.Of+f.Of
		case strings.HasPrefix(strings.TrimSpace(line), "--- FAIL"), strings.HasPrefix(strings.TrimSpace(line), "--- SKIP"),
			strings.HasPrefix(line, "FAIL"), strings.HasPrefix(line, "panic:"):
			wrong = append(wrong, errors.New(strings.TrimSpace(line)))
		}
	}
	if len(faults) == 0 {
		wrong = append(wrong, errors.New("no fault was injected"))
	}
	return faults, all.String(), errors.Join(append(wrong, lines.Err())...)
}

func tableOf(faults []results.Fault) results.Table {
	t := results.Table{Head: []string{"fault", "injected", "lost"}}
	for _, f := range faults {
		t.Rows = append(t.Rows, []string{f.Name, fmt.Sprint(f.Injected), f.Cost()})
	}
	return t
}
