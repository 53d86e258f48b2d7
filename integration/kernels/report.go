package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// result is the result of one kernel's half of the tests.
type result struct {
	version, half, pkg, uname string
	took                      time.Duration
	sections                  []section
	err                       error // why the plan was not completed; nil if it was
}

// section is what one step of the plan wrote.
type section struct {
	name   string
	status string // exit status
	took   string // seconds
	text   string
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

func (r result) failed() bool {
	return r.err != nil || slices.ContainsFunc(r.sections, func(s section) bool { return s.status != "0" })
}

func (r result) print(out io.Writer) {
	fmt.Fprintf(out, "\nLinux %s (%s, %s), %s, %v\n", r.version, r.uname, r.pkg, r.half, r.took.Round(time.Second))
	for _, s := range r.sections {
		s.print(out)
	}
	if r.err != nil {
		fmt.Fprintf(out, "  FAIL: %v\n", r.err)
	}
}

// print prints a line, and the whole output of what failed.
func (s section) print(out io.Writer) {
	verdict := "ok  "
	if s.status != "0" {
		verdict = "FAIL"
	}
	if strings.HasPrefix(s.name, "preflight") {
		fmt.Fprintf(out, "  %s %s: %s\n", verdict, s.name, strings.TrimSpace(s.text))
		return
	}
	t, err := count(s.text)
	if err != nil {
		fmt.Fprintf(out, "  FAIL %s: %v\n%s", s.name, err, s.text)
		return
	}
	fmt.Fprintf(out, "  %s %-16s %3d tests and %3d parts passed, %d failed, %d skipped, %s s\n",
		verdict, s.name, t.tests, t.parts, len(t.failed), len(t.skipped), s.took)
	for _, name := range t.skipped {
		fmt.Fprintf(out, "       skipped: %s\n", name)
	}
	if s.status != "0" && len(t.failed) == 0 {
		lines := slices.Collect(strings.Lines(s.text)) // a panic, or a time limit
		fmt.Fprintln(out, strings.Join(lines[max(0, len(lines)-100):], ""))
	}
	for _, name := range t.failed {
		fmt.Fprintf(out, "--- FAIL: %s\n%s", name, t.said[name])
	}
}

// tally sums up a test binary's output.
type tally struct {
	tests, parts    int // that passed
	failed, skipped []string
	said            map[string]string // by the test's name
}

// count parses a test binary's output with test2json, as go test -json does.
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
