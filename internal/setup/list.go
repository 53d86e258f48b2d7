package main

import (
	_ "embed"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

//go:embed list.txt
var list string

// row is a line of the list.
type row struct {
	pkg     string // Debian package
	program string // a program in it, or a file: a pattern that begins with /
}

// needed returns the rows of these targets.
func needed(targets []string) (rows []row) {
	for line := range strings.Lines(list) {
		f := strings.Fields(line)
		if f[0] != "#" && slices.ContainsFunc(f[2:], func(t string) bool { return slices.Contains(targets, t) }) {
			rows = append(rows, row{pkg: f[0], program: f[1]})
		}
	}
	return rows
}

// lacking returns the rows that are not installed. On Debian it looks at the
// package, not the program: nc may be another package's.
func lacking(rows []row, debian bool) (missing []row) {
	here := func(r row) bool { return present(r.program) }
	if debian {
		installed := installed()
		here = func(r row) bool { return installed[r.pkg] }
	}
	return slices.DeleteFunc(rows, here)
}

func present(program string) bool {
	if strings.HasPrefix(program, "/") {
		files, _ := filepath.Glob(program)
		return files != nil
	}
	_, err := exec.LookPath(program)
	return err == nil
}

// installed returns the packages that dpkg has installed.
func installed() map[string]bool {
	out, _ := exec.Command("dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\n").Output()
	m := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		if pkg, ok := strings.CutPrefix(strings.TrimSpace(line), "installed "); ok {
			m[pkg] = true
		}
	}
	return m
}

func names(rows []row, name func(row) string) string {
	var all []string
	for _, r := range rows {
		all = append(all, name(r))
	}
	return strings.Join(all, " ")
}
