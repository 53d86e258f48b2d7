package docs

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// pages are the pages for users and contributors, from the repository's root.
func pages(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"../*.md", "../docs/*.md", "../k8s/*.md", "../proxy/*.md", "../internal/*/*.md", "../integration/*/*.md"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, paths...)
	}
	if len(all) < 10 {
		t.Fatalf("only %q", all)
	}
	return all
}

// headings are the headings of a Markdown text, as GitHub links to them.
func headings(text string) (all []string) {
	other := regexp.MustCompile(`[^\w -]`)
	for line := range strings.Lines(text) {
		if title := strings.TrimSpace(strings.TrimLeft(line, "#")); strings.HasPrefix(line, "#") {
			all = append(all, strings.ReplaceAll(strings.ToLower(other.ReplaceAllString(title, "")), " ", "-"))
		}
	}
	return all
}

// TestLinks: what the pages link to in this repository exists, headings included.
func TestLinks(t *testing.T) {
	for _, page := range pages(t) {
		text := read(t, page)
		for _, m := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			file, heading, _ := strings.Cut(m[1], "#")
			target := page
			if file != "" {
				target = filepath.Join(filepath.Dir(page), file)
			}
			if found, err := filepath.Glob(target); err != nil || len(found) != 1 {
				t.Errorf("%s: no %s", page, m[1])
			} else if heading != "" && !slices.Contains(headings(read(t, target)), heading) {
				t.Errorf("%s: %s has no such heading", page, m[1])
			}
		}
	}
}

// TestTwice: no paragraph or row of a table is followed by another version of itself, as
// a merge may leave it.
func TestTwice(t *testing.T) {
	const same = 80 // bytes at the beginning
	for _, page := range pages(t) {
		last := ""
		for line := range strings.Lines(read(t, page)) {
			if len(line) > same && len(last) > same && line[:same] == last[:same] {
				t.Errorf("%s twice: %s", page, line[:same])
			}
			last = line
		}
	}
}

// TestTargets: the pages name make's targets by their names.
func TestTargets(t *testing.T) {
	makefile := read(t, "../Makefile")
	found := 0
	for _, page := range pages(t) {
		for _, m := range regexp.MustCompile("(?m)(?:^|`|^    )make ([a-z][a-z0-9-]*)").FindAllStringSubmatch(read(t, page), -1) {
			if found++; !strings.Contains(makefile, "\n"+m[1]+":") {
				t.Errorf("%s: no target %s", page, m[1])
			}
		}
	}
	if found < 30 {
		t.Errorf("only %d targets are named", found)
	}
}

// TestLayout: the tests of which make e2e says that a layout can break them exist.
func TestLayout(t *testing.T) {
	files, err := filepath.Glob("../integration/cluster/*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	sources := ""
	for _, f := range files {
		sources += read(t, f)
	}
	m := regexp.MustCompile(`(?m)^LAYOUT +\?= \^Test\((.*)\)\$\$$`).FindStringSubmatch(read(t, "../Makefile"))
	if m == nil {
		t.Fatal("the Makefile has no LAYOUT")
	}
	for _, name := range strings.Split(m[1], "|") {
		if !strings.Contains(sources, "\nfunc Test"+name+"(t *testing.T)") {
			t.Errorf("LAYOUT has Test%s, which does not exist", name)
		}
	}
}

// TestHelp: each target that is meant for users has its line in make help.
func TestHelp(t *testing.T) {
	for _, m := range regexp.MustCompile(`(?m)^([a-z][a-z0-9-]*):(.*)$`).FindAllStringSubmatch(read(t, "../Makefile"), -1) {
		if !strings.Contains(m[2], "## ") && !strings.HasSuffix(m[1], "-needs") {
			t.Errorf("make help does not show %s", m[1])
		}
	}
}

// TestSamples: what the README shows is what the programs print; tests in integration
// compare the files with them.
func TestSamples(t *testing.T) {
	readme := read(t, "../README.md")
	for _, file := range []string{"explain.txt", "status.txt"} {
		if sample := read(t, "../integration/testdata/"+file); !strings.Contains(readme, "```\n"+sample+"```\n") {
			t.Errorf("README.md does not show integration/testdata/%s as it is", file)
		}
	}
}
