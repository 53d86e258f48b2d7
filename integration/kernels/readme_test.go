package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// root is the project's directory.
const root = "../.."

func text(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// versions are those that `make kernels` runs, the oldest first.
func versions(t *testing.T) []string {
	t.Helper()
	m := regexp.MustCompile(`(?m)^KERNELS \?= (.*)$`).FindStringSubmatch(text(t, "Makefile"))
	if m == nil {
		t.Fatal("no KERNELS in the Makefile")
	}
	return strings.Fields(m[1])
}

// whole is README.md's list of the kernels on which all was run.
func whole(t *testing.T) string {
	t.Helper()
	_, sentence, ok := strings.Cut(text(t, "README.md"), "Run on Linux ")
	sentence, _, _ = strings.Cut(sentence, ";")
	if !ok {
		t.Fatal("README.md does not say what was run: Run on Linux ...;")
	}
	return sentence
}

// TestReadme: the kernels of Debian's that README.md names are of those that make kernels
// runs, and it names no other but the one of make test.
func TestReadme(t *testing.T) {
	sentence := whole(t)
	form := regexp.MustCompile(`([0-9]+\.[0-9]+) \(Debian ([0-9]+\.[0-9]+)\.[0-9]+\)`)
	all, named := versions(t), []string{}
	for _, m := range form.FindAllStringSubmatch(sentence, -1) {
		if named = append(named, m[1]); m[2] != m[1] {
			t.Errorf("%q", m[0])
		}
		last := all[len(all)-1] == newest && slices.Compare(numbers(m[1]), numbers(all[len(all)-2])) > 0
		if !last && !slices.Contains(all, m[1]) {
			t.Errorf("%s is named, make kernels runs %v", m[1], all)
		}
	}
	if len(named) == 0 {
		t.Errorf("%q names none", sentence)
	}
	if others := regexp.MustCompile(`[0-9]+\.[0-9]+`).FindAllString(form.ReplaceAllString(sentence, ""), -1); len(others) > 1 {
		t.Errorf("%v are named without a version of Debian's", others)
	}
}

// TestFloor: what the documents ask for is the oldest kernel of make kernels, and next to
// it they say on which all was run, README.md's list.
func TestFloor(t *testing.T) {
	floor := "Linux " + versions(t)[0] + " or newer"
	if want := "Built for " + floor + ". Run on Linux "; !strings.Contains(text(t, "README.md"), want) {
		t.Errorf("README.md does not say %q", want)
	}
	run := "run as a whole on " + regexp.MustCompile(` \([^)]*\)`).ReplaceAllString(whole(t), "")
	for _, page := range []string{"CONTRIBUTING.md", "docs/REFERENCE.md", "k8s/README.md"} {
		if said := regexp.MustCompile(regexp.QuoteMeta(floor) + `[^(]*\(` + regexp.QuoteMeta(run) + `[;)]`); !said.MatchString(text(t, page)) {
			t.Errorf("%s does not say %q and %q", page, floor, run)
		}
	}
}

// TestEnvironment: a guest's tests know what its kernel may lack, and preflight is
// expected to say so; a list for a kernel that is not run is a mistake.
func TestEnvironment(t *testing.T) {
	for version, want := range map[string]string{
		"5.10": "LAB_MAY_LACK='nft egress hook,nft table owner,SO_MARK with CAP_NET_RAW,BIG TCP,MPTCP'\nsource='/src' packet_guard=tc\n",
		"6.1":  "LAB_MAY_LACK=''\nsource='/src' packet_guard=nft\n",
		newest: "LAB_MAY_LACK='UDP-Lite'\nsource='/src' packet_guard=nft\n",
	} {
		if got := environment("/src", version); !strings.HasSuffix(got, want) {
			t.Errorf("%s: %q, want %q", version, got, want)
		}
	}
	all := versions(t)
	for version := range mayLack {
		if !slices.Contains(all, version) {
			t.Errorf("mayLack has %s, make kernels runs %v", version, all)
		}
	}
}
