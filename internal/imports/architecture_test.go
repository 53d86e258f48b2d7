package imports

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// row is a line of ARCHITECTURE.md's table of packages: name, link, imports.
var row = regexp.MustCompile(`(?m)^\| \[([\w/-]+)\]\(([\w/-]+)\) \| ([^|]+) \| [^|]+ \|$`)

// TestArchitecture compares the table in ARCHITECTURE.md with the code: one row
// for each package, in the order of their names, with its imports from this
// module.
func TestArchitecture(t *testing.T) {
	page, err := os.ReadFile("../../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	drawn := map[string]string{}
	var order []string
	for _, m := range row.FindAllStringSubmatch(string(page), -1) {
		if m[1] != m[2] || drawn[m[1]] != "" {
			t.Errorf("ARCHITECTURE.md: %s", m[0])
		}
		drawn[m[1]] = m[3]
		order = append(order, m[1])
	}
	if !slices.IsSorted(order) {
		t.Errorf("ARCHITECTURE.md: the rows are not sorted by package: %q", order)
	}
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		var ours []string
		for _, i := range p.Imports {
			if i, own := strings.CutPrefix(i, module); own {
				ours = append(ours, i)
			}
		}
		slices.Sort(ours)
		want := strings.Join(ours, ", ")
		if want == "" {
			want = "–"
		}
		if got := drawn[name]; got != want {
			t.Errorf("ARCHITECTURE.md says that %s imports %q; write: | [%s](%s) | %s | … |", name, got, name, name, want)
		}
		delete(drawn, name)
	}
	for name := range drawn {
		t.Errorf("ARCHITECTURE.md has a row of %s, which is not a package: delete it", name)
	}
}
