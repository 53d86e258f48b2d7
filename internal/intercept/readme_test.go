package intercept

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestREADME holds README.md to testdata, which TestGolden holds to the kernel:
// it shows the files word for word and has one reason for each rule.
func TestREADME(t *testing.T) {
	doc := read(t, "README.md")
	nat, tproxy := read(t, "testdata/nat.nft"), read(t, "testdata/tproxy.nft")

	var shown []string
	for _, m := range regexp.MustCompile("(?ms)^```(?:nft|ip)\n(.*?)^```").FindAllStringSubmatch(doc, -1) {
		shown = append(shown, m[1])
	}
	want := []string{
		nat, chainText(tproxy, "divert_in") + chainText(tproxy, "inbound") + chainText(tproxy, "exempt") +
			chainText(tproxy, "closed_in") + chainText(tproxy, "orphan"),
		read(t, "testdata/ipv4.ip"), read(t, "testdata/ipv6.ip"),
	}
	if diff := cmp.Diff(want, shown); diff != "" {
		t.Errorf("README shows something else (-testdata +README):\n%s", diff)
	}
	// Where both files have a chain, tproxy.nft has it in full.
	rules := map[string]int{}
	for _, name := range []string{"inbound", "closed_in"} {
		rules[name+", nat"], rules[name+", tproxy"] = ruleCount(nat, name), ruleCount(tproxy, name)
	}
	for _, m := range regexp.MustCompile(`(?m)^\tchain (\w+) {`).FindAllStringSubmatch(nat+tproxy, -1) {
		if _, two := rules[m[1]+", nat"]; !two {
			rules[m[1]] = max(ruleCount(nat, m[1]), ruleCount(tproxy, m[1]))
		}
	}
	reasons := map[string]int{}
	for _, section := range strings.Split(doc, "\n#### Chain ")[1:] {
		name, text, _ := strings.Cut(section, "\n")
		text, _, _ = strings.Cut(text, "\n## ")
		reasons[name] = len(regexp.MustCompile(`(?m)^\d+\. `).FindAllString(text, -1))
	}
	if diff := cmp.Diff(rules, reasons); diff != "" {
		t.Errorf("rules and reasons (-rules +reasons):\n%s", diff)
	}
	for _, s := range sysctls {
		if !strings.Contains(doc, "| `"+s.name()+"` | "+s.on+" |") {
			t.Errorf("README lacks sysctl %s=%s", s.name(), s.on)
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// chainText is a chain of a ruleset, with its braces.
func chainText(ruleset, name string) string {
	_, rest, found := strings.Cut(ruleset, "\tchain "+name+" {\n")
	if !found {
		return ""
	}
	text, _, _ := strings.Cut(rest, "\n\t}\n")
	return "\tchain " + name + " {\n" + text + "\n\t}\n"
}

func ruleCount(ruleset, name string) int {
	text := chainText(ruleset, name)
	return strings.Count(text, "\n\t\t") - strings.Count(text, "\n\t\ttype ")
}
