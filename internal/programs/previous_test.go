package programs

import (
	"errors"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestPrevious(t *testing.T) {
	r := Previous()
	if !regexp.MustCompile(`^v\d+\.\d+\.\d+$`).MatchString(r.Version) || !regexp.MustCompile(`^[0-9a-f]{40}$`).MatchString(r.Commit) {
		t.Errorf("previous.txt has %+v", r)
	}
}

// TestNoHistory: what is not a repository, or a shallow one, says so.
func TestNoHistory(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	root := t.TempDir()
	for range 2 {
		_, err := Previous().Build(t.Context(), root)
		if !errors.Is(err, ErrNoHistory) || !strings.Contains(err.Error(), "git fetch --unshallow") {
			t.Errorf("%v", err)
		}
		if out, err := exec.Command("git", "init", "-q", root).CombinedOutput(); err != nil { // the second time: without the commit
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(cache, "*", "*", "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
