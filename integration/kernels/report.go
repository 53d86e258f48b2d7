package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// result is the result of one kernel.
type result struct {
	kernel kernel
	halves []half
}

// half is the result of a machine, which runs half of the tests.
type half struct {
	name, uname string
	took        time.Duration
	sections    []section
	err         error // why the plan was not completed; nil if it was
	second      *half // of the tests that failed, run again; nil if none was
}

// section is what one step of the plan wrote.
type section struct {
	name   string
	status string // exit status
	took   string // seconds
	text   string
	tally  tally // of a test binary
}

// parse reads the output of tests.sh. A log that ends early, as after a kernel
// panic, is an error.
func parse(log string) (sections []section, uname string, err error) {
	var s *section
	want := ""
	for line := range strings.Lines(log) {
		f := strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(f, "### kernel "):
			uname = strings.TrimPrefix(f, "### kernel ")
		case strings.HasPrefix(f, "### plan "):
			want = strings.TrimPrefix(f, "### plan ")
		case strings.HasPrefix(f, "### run "):
			sections = append(sections, section{name: strings.TrimPrefix(f, "### run ")})
			s = &sections[len(sections)-1]
		case s != nil && strings.HasPrefix(f, "### end "+s.name+" "):
			s.status, s.took, _ = strings.Cut(strings.TrimPrefix(f, "### end "+s.name+" "), " ")
			s = nil
		case s != nil:
			s.text += line
		}
	}
	if want == "" || want != fmt.Sprint(len(sections)) || s != nil {
		err = fmt.Errorf("the guest ended early: %d of %q steps started", len(sections), want)
	}
	return sections, uname, err
}

func (r result) failed() bool { return slices.ContainsFunc(r.halves, half.failed) }

func (h half) failed() bool {
	return h.err != nil || slices.ContainsFunc(h.sections, func(s section) bool { return s.status != "0" && !h.redeemed(s) })
}

// print prints a kernel's result: what each machine did, and for the kernel what did
// not simply pass.
func (r result) print(out io.Writer) {
	uname := ""
	for _, h := range r.halves {
		uname = cmp.Or(uname, h.uname)
	}
	fmt.Fprintf(out, "\nLinux %s (%s, %s)\n", r.kernel.version, uname, r.kernel.pkg)
	var all, lack, skipped, second []string
	var sum tally
	for _, h := range r.halves {
		h.print(out)
		for _, s := range h.sections {
			for _, name := range s.tally.skipped {
				if feature, ok := s.lacks(name); ok {
					lack = append(lack, s.name+" "+name+": "+feature)
				} else {
					skipped = append(skipped, s.name+" "+name+": "+s.tally.reason(name))
				}
			}
			if s.status != "0" && h.redeemed(s) {
				for _, test := range s.failedTests() {
					second = append(second, s.name+" "+test+": "+s.tally.firstReason(test))
				}
			}
			sum.tests, sum.parts, all = sum.tests+s.tally.tests, sum.parts+s.tally.parts, append(all, s.tally.failed...)
		}
	}
	fmt.Fprintf(out, " %d tests and %d parts passed, %d failed\n", sum.tests, sum.parts, len(all))
	list(out, lack, "lacks its subject on this kernel", "lack their subject on this kernel")
	list(out, skipped, "was skipped", "were skipped")
	list(out, second, "failed, and passed when it was run again, alone", "failed, and passed when they were run again, alone")
}

// print prints what a machine did, and the one in which its tests were run again.
func (h half) print(out io.Writer) {
	fmt.Fprintf(out, " %s machine, %v\n", h.name, h.took.Round(time.Second))
	for _, s := range h.sections {
		s.print(out, h.redeemed(s))
	}
	if h.err != nil {
		fmt.Fprintf(out, "  FAIL: %v\n", h.err)
	}
	if h.second != nil {
		h.second.print(out)
	}
}

// list prints how many there are, and each.
func list(out io.Writer, items []string, one, more string) {
	switch len(items) {
	case 0:
		return
	case 1:
		fmt.Fprintf(out, " 1 test or part %s:\n", one)
	default:
		fmt.Fprintf(out, " %d tests or parts %s:\n", len(items), more)
	}
	for _, item := range items {
		fmt.Fprintln(out, "      ", item)
	}
}

// print prints a line, and the whole output of what failed.
func (s section) print(out io.Writer, redeemed bool) {
	verdict := "ok  "
	switch {
	case s.status != "0" && redeemed:
		verdict = "2nd "
	case s.status != "0":
		verdict = "FAIL"
	}
	if strings.HasPrefix(s.name, "preflight") {
		fmt.Fprintf(out, "  %s %s: %s\n", verdict, s.name, strings.TrimSpace(s.text))
		return
	}
	t := s.tally
	fmt.Fprintf(out, "  %s %-18s %3d tests and %3d parts passed, %d failed, %d skipped, %s s\n",
		verdict, s.name, t.tests, t.parts, len(t.failed), len(t.skipped), s.took)
	if s.status != "0" && (len(t.failed) == 0 || !s.ended()) {
		lines := slices.Collect(strings.Lines(s.text)) // a panic, or a time limit
		fmt.Fprintln(out, strings.Join(lines[max(0, len(lines)-100):], ""))
	}
	for _, name := range t.failed {
		fmt.Fprintf(out, "--- FAIL: %s\n%s", name, t.said[name])
	}
}

// lacks is the feature without which a skipped test has no subject, with what the
// kernel said.
func (s section) lacks(test string) (feature string, ok bool) {
	_, feature, ok = strings.Cut(s.tally.reason(test), lab.Lacks)
	return feature, ok
}

// tally sums up a test binary's output.
type tally struct {
	tests, parts    int // that passed
	failed, skipped []string
	said            map[string]string // by the test's name
}

// reason is the first line that a test wrote itself.
func (t tally) reason(test string) string {
	for line := range strings.Lines(t.said[test]) {
		if text := strings.TrimSpace(line); text != "" && !strings.HasPrefix(text, "=== ") && !strings.HasPrefix(text, "--- ") {
			return text
		}
	}
	return "no reason is given"
}

// firstReason is the reason of the first part of a failed test that wrote one.
func (t tally) firstReason(test string) string {
	for _, name := range t.failed {
		if (name == test || strings.HasPrefix(name, test+"/")) && t.reason(name) != t.reason("") {
			return t.reason(name)
		}
	}
	return t.reason("")
}

// count sums up a test binary's output, by way of test2json, as go test -json does. An
// output that it cannot read counts as a failure.
func (s *section) count() {
	var err error
	if s.tally, err = count(s.text); err != nil {
		s.status, s.text = "unreadable", s.text+err.Error()
	}
}

func count(text string) (t tally, err error) {
	var events, said bytes.Buffer
	cmd := exec.Command("go", "tool", "test2json")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(text), &events, &said
	if err := cmd.Run(); err != nil {
		return t, fmt.Errorf("test2json: %w\n%s", err, said.String())
	}
	t.said = map[string]string{}
	for d := json.NewDecoder(&events); ; {
		var e struct {
			Action, Test, Output string
		}
		if err := d.Decode(&e); errors.Is(err, io.EOF) {
			return t, nil
		} else if err != nil {
			return t, err
		}
		t.add(e.Action, e.Test, e.Output)
	}
}

func (t *tally) add(action, test, output string) {
	part := strings.Contains(test, "/")
	switch {
	case action == "output":
		t.said[test] += output
	case action == "pass" && part:
		t.parts++
	case action == "pass" && test != "":
		t.tests++
	case action == "fail" && test != "":
		t.failed = append(t.failed, test)
	case action == "skip" && test != "":
		t.skipped = append(t.skipped, test)
	}
}
