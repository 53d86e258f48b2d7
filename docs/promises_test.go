package docs

import (
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// promises are the cells of the table of RELIABILITY.md that compares others with us, and
// the text around it.
func promises(t *testing.T) (section string, rows [][]string) {
	t.Helper()
	_, section, found := strings.Cut(read(t, "../RELIABILITY.md"), "\n## Promises of others, and our figures\n")
	if !found {
		t.Fatal("RELIABILITY.md has no such section")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	for line := range strings.Lines(section) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "| ") {
			rows = append(rows, strings.Split(strings.Trim(line, "| "), " | "))
		}
	}
	return section, rows[1:] // without the head
}

// TestPromises: each promise has its source, and each comparison a verdict. (TestLinks and
// TestTargets look at what is in the repository.)
func TestPromises(t *testing.T) {
	section, rows := promises(t)
	if len(rows) < 10 {
		t.Fatalf("only %d promises", len(rows))
	}
	sources := regexp.MustCompile(`\]\(https://[^)\s]+\)`)
	for _, row := range rows {
		if len(row) != 5 {
			t.Errorf("%d cells: %q", len(row), row)
			continue
		}
		if !sources.MatchString(row[1]) && !namesSource(row[1], section) {
			t.Errorf("%s: no source", row[0])
		}
		verdicts := regexp.MustCompile(`\*\*(.*?)\*\*`).FindAllStringSubmatch(row[4], -1)
		if !strings.HasPrefix(row[4], "**") {
			t.Errorf("%s: the verdict is %q", row[0], row[4])
		}
		for _, v := range verdicts {
			if !slices.Contains([]string{"better", "equal", "weaker", "not comparable"}, v[1]) {
				t.Errorf("%s: %q is no verdict", row[0], v[1])
			}
		}
	}
}

// namesSource reports whether a promise is from a document to which another row links,
// named by the first words of that link: "(management guide, 6)".
func namesSource(promise, section string) bool {
	for _, m := range regexp.MustCompile(`\(([a-z ]+), [0-9.]+\)`).FindAllStringSubmatch(promise, -1) {
		if strings.Contains(section, "["+m[1]+", ") {
			return true
		}
	}
	return false
}

// TestPromisesFound: what a row says that finds its figure exists, and is among what that
// target of make runs.
func TestPromisesFound(t *testing.T) {
	where := testDirs(t)
	faulty := regexp.MustCompile(`(?m)^FAULTY_TESTS := (.*)$`).FindStringSubmatch(strings.ReplaceAll(read(t, "../Makefile"), "$$", "$"))
	if faulty == nil {
		t.Fatal("the Makefile has no FAULTY_TESTS")
	}
	isFaulty := regexp.MustCompile(faulty[1])
	test := regexp.MustCompile(`\bTest[A-Z]\w*`)
	runs := func(target, name string) bool {
		const e2e = "../integration/cluster"
		outside := slices.ContainsFunc(where[name], func(dir string) bool { return dir != e2e })
		switch target {
		case "test":
			return outside
		case "faults":
			return outside && isFaulty.MatchString(name)
		case "e2e":
			return slices.Contains(where[name], e2e)
		}
		return false
	}
	_, rows := promises(t)
	for _, row := range rows {
		for _, part := range strings.Split(row[3], "; ") {
			m := regexp.MustCompile("^`make ([a-z0-9]+)`(: .*)?$").FindStringSubmatch(part)
			if m == nil {
				t.Errorf("%s: no target in %q", row[0], part)
				continue
			}
			for _, name := range test.FindAllString(m[2], -1) {
				if !runs(m[1], name) {
					t.Errorf("%s: make %s has no %s", row[0], m[1], name)
				}
			}
		}
		for i, cell := range row {
			if i != 3 && test.MatchString(cell) {
				t.Errorf("%s: a test outside of the column for them: %s", row[0], cell)
			}
		}
	}
}

// testDirs are the directories that have a test of a name.
func testDirs(t *testing.T) map[string][]string {
	t.Helper()
	where := map[string][]string{}
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Z]\w*)\(`)
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		for _, m := range declared.FindAllStringSubmatch(read(t, path), -1) {
			where[m[1]] = append(where[m[1]], filepath.Dir(path))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return where
}

// TestPromisesRows: the lines of generated tables that the section names are there.
func TestPromisesRows(t *testing.T) {
	section, _ := promises(t)
	_, generated, _ := strings.Cut(read(t, "../RELIABILITY.md"), "\n## The soak\n")
	figures := read(t, "../integration/bench/FIGURES.md")
	found := regexp.MustCompile(`\brow \*([^*]+)\*( of FIGURES\.md)?`).FindAllStringSubmatch(section, -1)
	if n := strings.Count(section, "row *"); n < 10 || n != len(found) {
		t.Errorf("%d of %d rows are read", len(found), n)
	}
	for _, m := range found {
		page := generated
		if m[2] != "" {
			page = figures
		}
		if !strings.Contains(page, "\n| "+m[1]+" |") {
			t.Errorf("no row %q%s", m[1], m[2])
		}
	}
}

// TestPromisesNumbers: the few numbers of the section are those of the code.
func TestPromisesNumbers(t *testing.T) {
	section, _ := promises(t)
	n := 0
	for name, dirs := range testDirs(t) {
		if strings.HasPrefix(name, "Fuzz") {
			n += len(dirs)
		}
	}
	if want := strconv.Itoa(n) + " fuzz targets, two seconds each in CI, ten minutes by hand"; !strings.Contains(section, want) {
		t.Errorf("the section does not say %q", want)
	}
	for _, said := range []struct{ text, file, code string }{
		{"two seconds each in CI", "../.ci/run", "make fuzz FUZZTIME=2s "},
		{"ten minutes by hand", "../Makefile", "\nFUZZTIME ?= 10m\n"},
		{"0 of 200 new connections a second", "../integration/cluster/load_test.go", `"-rate", "200"`},
		{"of 200 new connections a second over each family", "../integration/skew_load_test.go", "echo, rate, seconds = 7000, 200,"},
		{"up to 10,000 at once", "../proxy/successor_clients_test.go", "lab.Count(10_000)"},
		{"one every 15 seconds", "REFERENCE.md", "`--repair-every` (15s;"},
		{"HAProxy 2.6", "../integration/bench/FIGURES.md", "HAProxy 2.6."},
	} {
		if !strings.Contains(section, said.text) {
			t.Errorf("the section does not say %q", said.text)
		}
		if !strings.Contains(read(t, said.file), said.code) {
			t.Errorf("%q: %s has no %q any more", said.text, said.file, said.code)
		}
	}
}
