package docs

import (
	"regexp"
	"strings"
	"testing"
)

const troubleshooting = "TROUBLESHOOTING.md"

// quoted are the sentences in the first cells of the page's tables, with the line
// that each is in.
func quoted(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for line := range strings.Lines(read(t, troubleshooting)) {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if len(cells) != 3 {
			t.Errorf("%s: want three cells: %s", troubleshooting, line)
		}
		for _, m := range regexp.MustCompile("`` (.+?) ``|`([^`]+)`").FindAllStringSubmatch(cells[0], -1) {
			text := m[1] + m[2]
			if all[text] != "" {
				t.Errorf("%s has %q twice", troubleshooting, text)
			}
			all[text] = line
		}
	}
	return all
}

// pattern matches the code's sentences that a sentence of the page means: a … there
// is any text.
func pattern(text string) *regexp.Regexp {
	return regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(text), "…", ".*") + "$")
}

// alerts are names of alerts, which a test of k8s/test holds to the rules.
var alerts = regexp.MustCompile(`^Tproxy[A-Z]\w+$`)

// TestTroubleshooting: the page has every sentence that a program can say, and no
// other.
func TestTroubleshooting(t *testing.T) {
	page := quoted(t)
	said := sentences(t)
	if len(said) < 100 || len(page) < 50 {
		t.Fatalf("only %d sentences in the code and %d on the page", len(said), len(page))
	}
	used := map[string]bool{}
	patterns := map[string]*regexp.Regexp{}
	for text := range page {
		patterns[text] = pattern(text)
	}
	missing := map[string][]string{}
	for _, s := range said {
		found := false
		for text, p := range patterns {
			if p.MatchString(s.text) {
				found, used[text] = true, true
			}
		}
		if !found {
			missing[s.text] = append(missing[s.text], s.place)
		}
	}
	for text, places := range missing {
		t.Errorf("docs/%s lacks what %s says. Add a row (… stands for any text, and may shorten it), or the sentence to the first cell of a row with the same cure:\n"+
			"| `%s` | what it means | what to do |", troubleshooting, strings.Join(places, ", "), text)
	}
	for text := range page {
		if !used[text] && !alerts.MatchString(text) {
			t.Errorf("docs/%s has %q, which no program says any more: take it out", troubleshooting, text)
		}
		if known := strings.NewReplacer("…", "", " ", "").Replace(text); len(known) < 5 {
			t.Errorf("docs/%s: %q fits too much: want five characters or more besides …", troubleshooting, text)
		}
	}
}

// TestTroubleshootingCells: a row says what it means and what to do.
func TestTroubleshootingCells(t *testing.T) {
	for text, line := range quoted(t) {
		for i, cell := range strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ") {
			if strings.TrimSpace(cell) == "" {
				t.Errorf("%q: cell %d is empty", text, i+1)
			}
		}
	}
}
