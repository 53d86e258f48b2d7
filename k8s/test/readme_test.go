package test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestReadme: what the install page names exists.
func TestReadme(t *testing.T) {
	text := string(read(t, root+"README.md"))
	var paths []string
	for _, p := range regexp.MustCompile(`\bk8s/[\w./-]+`).FindAllString(text, -1) {
		paths = append(paths, strings.TrimPrefix(strings.TrimRight(p, "."), "k8s/"))
	}
	for _, m := range regexp.MustCompile(`\]\(([^)]+)\)`).FindAllStringSubmatch(text, -1) {
		paths = append(paths, m[1])
	}
	if len(paths) < 20 {
		t.Fatalf("only %d paths: %q", len(paths), paths)
	}
	for _, p := range paths {
		if _, err := os.Stat(root + p); err != nil {
			t.Errorf("the page names %s: %v", p, err)
		}
	}
	// And what exists is named.
	for _, d := range distributions {
		if !slices.Contains(paths, "install/"+d) {
			t.Errorf("the page does not name install/%s", d)
		}
	}
	for _, f := range files(t) {
		if !slices.Contains(paths, filepath.Base(f)) {
			t.Errorf("the page does not name %s", filepath.Base(f))
		}
	}
}
