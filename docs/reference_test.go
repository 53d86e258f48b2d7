// Package docs has a test that compares REFERENCE.md with the code.
package docs

import (
	"bytes"
	"compress/gzip"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// table are the cells of the table under the page's heading.
func table(t *testing.T, heading string) (rows [][]string) {
	t.Helper()
	_, section, found := strings.Cut(read(t, "REFERENCE.md"), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("REFERENCE.md has no heading %q", heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	for line := range strings.Lines(section) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "| ") {
			rows = append(rows, strings.Split(strings.Trim(line, "| "), " | "))
		}
	}
	return rows[1:] // without the head
}

// specified are the codes of the CNI specification.
var specified = map[string]uint{
	"ErrUnknown": types.ErrUnknown, "ErrIncompatibleCNIVersion": types.ErrIncompatibleCNIVersion,
	"ErrUnsupportedField": types.ErrUnsupportedField, "ErrUnknownContainer": types.ErrUnknownContainer,
	"ErrInvalidEnvironmentVariables": types.ErrInvalidEnvironmentVariables, "ErrIOFailure": types.ErrIOFailure,
	"ErrDecodingFailure": types.ErrDecodingFailure, "ErrInvalidNetworkConfig": types.ErrInvalidNetworkConfig,
	"ErrInvalidNetNS": types.ErrInvalidNetNS, "ErrTryAgainLater": types.ErrTryAgainLater,
	"ErrPluginNotAvailable": types.ErrPluginNotAvailable, "ErrLimitedConnectivity": types.ErrLimitedConnectivity,
	"ErrInternal": types.ErrInternal,
}

// TestErrorCodes: the page has the codes that the plugin's source names, and no other.
func TestErrorCodes(t *testing.T) {
	used := map[string]string{} // code by name
	paths, err := filepath.Glob("../plugin/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SelectorExpr: // types.ErrIOFailure
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "types" {
					if code, ok := specified[n.Sel.Name]; ok {
						used[n.Sel.Name] = strconv.FormatUint(uint64(code), 10)
					}
				}
			case *ast.ValueSpec: // errAnnotation uint = 100
				if kind, ok := n.Type.(*ast.Ident); ok && kind.Name == "uint" && strings.HasPrefix(n.Names[0].Name, "err") {
					used[n.Names[0].Name] = n.Values[0].(*ast.BasicLit).Value
				}
			}
			return true
		})
	}
	said := map[string]string{}
	for _, row := range table(t, "Error codes of the plugin") {
		said[strings.Trim(row[1], "`")] = row[0]
	}
	if diff := cmp.Diff(used, said); diff != "" || len(used) < 4 {
		t.Errorf("codes (-plugin +REFERENCE.md):\n%s", diff)
	}
}

// core are the words of the rulesets and routes that CONFIG_NF_TABLES and
// CONFIG_INET bring, or that are names of ports, flags and addresses.
var core = strings.Fields(`
	table set type size flags timeout elements chain hook priority policy filter raw mangle dstnat device comment name
	ipv4_addr ipv6_addr inet_service interval dynamic output input forward prerouting
	ip ip6 tcp icmpv6 saddr daddr sport dport meta mark skuid l4proto iifname oifname iif oif
	accept drop goto jump add update to with reset local wildcard transparent syn ack fin rst s
	rule del route lookup main default unreachable priority dev lo eth0 metric proto`)

// TestKernelOptions: each word of the rulesets and routes that needs a kernel
// option is in the page's table, and each row is for such a word.
func TestKernelOptions(t *testing.T) {
	rows := table(t, "Kernel options")
	options := map[string][]string{} // by the word in backticks
	for _, row := range rows {
		for _, m := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(row[1], -1) {
			options[m[1]] = append(options[m[1]], row[0])
		}
	}
	paths, err := filepath.Glob("../internal/intercept/testdata/*.*")
	if err != nil || len(paths) < 4 {
		t.Fatal(paths, err)
	}
	// Strings, comments, names and numbers are not words.
	noise := regexp.MustCompile(`"[^"]*"|#.*|@\w+|\b(?:table (?:inet|netdev)|set|chain|goto|jump) \w+( \{)?|\bcounter \w+ \{}|\b[0-9a-f]*[0-9:][0-9a-fx:./]*`)
	seen := map[string]bool{}
	for _, path := range paths {
		for line := range strings.Lines(read(t, path)) {
			words := noise.ReplaceAllStringFunc(line, func(s string) string {
				if f := strings.Fields(s); f[0] == "table" && len(f) > 1 {
					return f[1] // the family
				}
				return " "
			})
			for _, w := range regexp.MustCompile(`[a-z][a-z0-9_]*`).FindAllString(words, -1) {
				seen[w] = true
				if options[w] == nil && !slices.Contains(core, w) {
					t.Errorf("%s: which kernel option brings %q? Put it into REFERENCE.md's table, or into this test's core: %s", path, w, strings.TrimSpace(line))
				}
			}
		}
	}
	for w := range options {
		if !seen[w] {
			t.Errorf("REFERENCE.md names an option for %q, which no ruleset or route uses", w)
		}
	}
}

// TestPreflightNames: what preflight can report as a feature is in the table.
func TestPreflightNames(t *testing.T) {
	said := map[string]bool{}
	for _, row := range table(t, "Kernel options") {
		said[row[2]] = true
	}
	paths, err := filepath.Glob("../internal/intercept/*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, path := range paths {
		for _, m := range regexp.MustCompile(`[{(]"(nft [a-z ]+)(?:", | \(%v\))`).FindAllStringSubmatch(read(t, path), -1) {
			if found++; !said[m[1]] {
				t.Errorf("%s: REFERENCE.md does not name %q", path, m[1])
			}
		}
	}
	if found < 8 {
		t.Errorf("only %d features found in internal/intercept", found)
	}
}

// TestRunningKernel: the kernel on which the tests pass has every option.
func TestRunningKernel(t *testing.T) {
	config := kernelConfig(t)
	for _, row := range table(t, "Kernel options") {
		option := strings.Trim(row[0], "`")
		if strings.Contains(row[1], "until Linux") && !strings.Contains(config, option) {
			continue
		}
		if !regexp.MustCompile(`(?m)^` + option + `=[ym]$`).MatchString(config) {
			t.Errorf("this kernel does not have %s, and yet the rules work: is the name right?", option)
		}
	}
}

// kernelConfig is the configuration that the running kernel was built with.
func kernelConfig(t *testing.T) string {
	t.Helper()
	var uname unix.Utsname
	if err := unix.Uname(&uname); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile("/boot/config-" + unix.ByteSliceToString(uname.Release[:])); err == nil {
		return string(b)
	}
	b, err := os.ReadFile("/proc/config.gz")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip("this kernel does not show its configuration")
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestWorkflow: GitHub runs the parts of .ci/run, each as a job.
func TestWorkflow(t *testing.T) {
	var lists [2][]string
	for i, f := range []struct{ path, list string }{
		{"../.ci/run", `(?m)^parts=\(([a-z0-9 ]+)\)$`},
		{"../.github/workflows/ci.yml", `(?m)^ +part: \[([a-z0-9, ]+)\]$`},
	} {
		m := regexp.MustCompile(f.list).FindStringSubmatch(read(t, f.path))
		if m == nil {
			t.Fatalf("%s has no list of parts", f.path)
		}
		lists[i] = strings.Fields(strings.ReplaceAll(m[1], ",", " "))
	}
	if diff := cmp.Diff(lists[0], lists[1]); diff != "" {
		t.Errorf("parts (-.ci/run +workflow):\n%s", diff)
	}
}
