package docs

import (
	"slices"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/internal/programs"
)

// TestUpgrade: the page is about the release that previous.txt names, which is the newest
// of the changelog, or in the commit of a release the one before it. TestSkew of package
// integration holds its table to what the programs do.
func TestUpgrade(t *testing.T) {
	r := programs.Previous()
	if page := read(t, "UPGRADE.md"); !strings.Contains(page, "An upgrade from "+r.Version+",") || !strings.Contains(page, "\n## What changes from "+r.Version+"\n") {
		t.Errorf("UPGRADE.md is not about an upgrade from %s", r.Version)
	}
	var releases []string
	for line := range strings.Lines(read(t, "../CHANGELOG.md")) {
		if name, ok := strings.CutPrefix(line, "## "); ok && !strings.HasPrefix(name, "Unreleased") {
			releases = append(releases, "v"+strings.Fields(name)[0])
		}
	}
	if newest := releases[:min(2, len(releases))]; !slices.Contains(newest, r.Version) {
		t.Errorf("previous.txt has %s, the changelog's newest releases are %v: RELEASE.md says when to move it", r.Version, newest)
	}
}
