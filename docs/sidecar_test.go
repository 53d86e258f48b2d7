package docs

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSidecarFlags: the page has the flags that the sidecar's source adds, and its
// commands.
func TestSidecarFlags(t *testing.T) {
	source := read(t, "../proxy/config.go") + read(t, "../internal/flags/values.go")
	compare(t, "Flags of the sidecar", 5, `(?m)s\.Add\("([a-z-]+)"`, source, "--")
	compare(t, "Commands of the sidecar", 2, `(?m)^\t\t\{"([a-z-]+)", "`, read(t, "../proxy/commands.go"), "tproxy-proxy ")
}

// TestReasons: the page explains each reason against readiness.
func TestReasons(t *testing.T) {
	compare(t, "Why the sidecar is not ready", 8, ` Reason = "([a-z_]+)"`, read(t, "../proxy/probe/fault.go"), "")
}

// TestEnds: the page explains each way in which a connection ends.
func TestEnds(t *testing.T) {
	source := read(t, "../proxy/accesslog/outcome.go")
	list := regexp.MustCompile(`(?s)var Ends = .*?\n}`).FindString(source)
	words := regexp.MustCompile(`\b([A-Z][A-Za-z]+)\b +(?:= )?"([a-z -]+)"`)
	for _, m := range words.FindAllStringSubmatch(source, -1) {
		list = regexp.MustCompile(`\b`+m[1]+`\b`).ReplaceAllString(list, `"`+m[2]+`"`)
	}
	compare(t, "How a connection ends", 12, `"([a-z -]+)"`, list, "")
}

// compare wants the same names in the source, by a pattern, as in backticks in the first
// column of the table under a heading.
func compare(t *testing.T, heading string, least int, pattern, source, prefix string) {
	t.Helper()
	var used, said []string
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(source, -1) {
		used = append(used, m[1])
	}
	for _, row := range table(t, heading) {
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[0], -1) {
			name, _, _ := strings.Cut(strings.TrimPrefix(m[1], prefix), " [")
			said = append(said, name)
		}
	}
	slices.Sort(used)
	slices.Sort(said)
	if diff := cmp.Diff(slices.Compact(used), slices.Compact(said)); diff != "" || len(used) < least {
		t.Errorf("%s (-source +REFERENCE.md):\n%s", heading, diff)
	}
}
