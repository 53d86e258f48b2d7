package docs

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// sources are the package's files without its tests.
func sources(t *testing.T, dir string) (text string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		if !strings.HasSuffix(p, "_test.go") {
			text += read(t, p)
		}
	}
	return text
}

// found are the first groups of all matches, in order and once each.
func found(pattern, text string) (list []string) {
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		list = append(list, m[1])
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// section is the page's text under a heading.
func section(t *testing.T, heading string) string {
	t.Helper()
	_, text, ok := strings.Cut(read(t, "REFERENCE.md"), "\n"+heading+"\n")
	if !ok {
		t.Fatalf("REFERENCE.md has no heading %q", heading)
	}
	text, _, _ = strings.Cut(text, "\n##")
	return text
}

// TestExplainVerdicts: the page has the codes that package explain can give.
func TestExplainVerdicts(t *testing.T) {
	used := found(`\b(?:fine|fault|unclear)\("([a-z_]+)"`, sources(t, "../install/explain"))
	said := found("(?m)^\\| `([a-z_]+)` \\|", section(t, "### Verdicts of explain"))
	if diff := cmp.Diff(used, said); diff != "" || len(used) < 20 {
		t.Errorf("codes (-code +REFERENCE.md):\n%s", diff)
	}
}

// TestExplainFields: the page names each field of the JSON, and each outcome.
func TestExplainFields(t *testing.T) {
	text, code := section(t, "### JSON of explain"), sources(t, "../install/explain")
	fields, outcomes := found(`json:"([a-z_]+)`, code), found(`Outcome = "([a-z_]+)"`, code)
	said := found("`([a-z_]+)`", text)
	for _, name := range slices.Concat(fields, outcomes) {
		if !slices.Contains(said, name) {
			t.Errorf("REFERENCE.md does not name %q", name)
		}
	}
	if len(fields) < 30 || len(outcomes) < 9 {
		t.Errorf("only %d fields and %d outcomes found", len(fields), len(outcomes))
	}
}

// TestExplainFlags: the page has the flags of explain.
func TestExplainFlags(t *testing.T) {
	used := found(`s\.(?:Add\(|Bool\(&[a-z.]+, )"([a-z-]+)"`, read(t, "../install/explain_config.go"))
	text := section(t, "## tproxy-install explain")
	for _, name := range used {
		if !strings.Contains(text, "`--"+name) {
			t.Errorf("REFERENCE.md does not have --%s", name)
		}
	}
	if len(used) < 6 {
		t.Errorf("only %v found", used)
	}
}
