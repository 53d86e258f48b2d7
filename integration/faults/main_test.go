package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/results"
)

// output is what a run of tests prints.
func output(lines ...string) string { return strings.Join(lines, "\n") + "\n" }

func fault(name string, injected, lost, of int) string {
	var b strings.Builder
	results.Fault{Name: name, Injected: injected, Lost: lost, Of: of, What: "connections"}.Report(writer{&b})
	return "    a_test.go:1: " + b.String()
}

type writer struct{ *strings.Builder }

func (w writer) Helper() {}

func (w writer) Logf(format string, args ...any) { fmt.Fprintf(w, format, args...) }

// TestRun: faults of one name are added up, and the page gets the table.
func TestRun(t *testing.T) {
	page := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(page, []byte("before\n"+pageBegin+"old\n"+pageEnd+"after\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	in := output("=== RUN   TestX", fault("accept4", 3, 1, 8), fault("socket", 2, 0, 8), fault("accept4", 4, 1, 8), "--- PASS: TestX (0.01s)", "PASS")
	var out strings.Builder
	if err := run(strings.NewReader(in), &out, page); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| accept4 | 7 | 2 of 16 connections |", "| socket | 2 | none of 8 connections |", "before\n", "after\n"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in the page:\n%s", want, text)
		}
	}
	if strings.Contains(string(text), "old\n") || strings.Count(out.String(), "\n") != 3 {
		t.Errorf("page:\n%s\nprinted:\n%s", text, out.String())
	}
}

// TestWrong: a failed test, a skipped one and a fault that was not injected end the run
// with an error, and the page stays.
func TestWrong(t *testing.T) {
	page := filepath.Join(t.TempDir(), "page.md")
	const old = pageBegin + pageEnd
	if err := os.WriteFile(page, []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	good := fault("accept4", 3, 1, 8)
	for _, in := range []string{
		output(good, "--- FAIL: TestX (0.01s)"),
		output(good, "    --- SKIP: TestX/nat (0.01s)"),
		output(good, "FAIL	example.org/x [build failed]"),
		output(good, fault("socket", 0, 0, 8)),
		output(good, "    a_test.go:1: fault: {"),
		output("PASS"),
	} {
		var out strings.Builder
		if err := run(strings.NewReader(in), &out, page); err == nil || out.String() != in {
			t.Errorf("%q: %v, printed %q", in, err, out.String())
		}
		if text, err := os.ReadFile(page); err != nil || string(text) != old {
			t.Errorf("%q: the page is %q (%v)", in, text, err)
		}
	}
}

// TestNames: each test that make faults names is there, in a package that it runs: a
// pattern that matches nothing passes.
func TestNames(t *testing.T) {
	text, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`(?m)^FAULTY_TESTS := \^\(TestFault\.\*\|(.+)\)\$\$$`).FindStringSubmatch(string(text))
	packages := regexp.MustCompile(`-run '\$\(FAULTY_TESTS\)' (.*) \|`).FindStringSubmatch(string(text))
	if names == nil || packages == nil {
		t.Fatal("the Makefile does not say which tests make faults runs")
	}
	code := ""
	for _, dir := range strings.Fields(packages[1]) {
		files, err := filepath.Glob(filepath.Join("../..", dir, "*_test.go"))
		if err != nil || len(files) == 0 {
			t.Errorf("%s has no tests: %v", dir, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			code += string(text)
		}
	}
	for _, name := range strings.Split(names[1], "|") {
		if !strings.Contains(code, "\nfunc "+name+"(t *testing.T) {") {
			t.Errorf("no test is called %s", name)
		}
	}
}
