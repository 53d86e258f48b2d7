package programs

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Every program of ours is in the list, under one name: those are the main
// packages outside of internal/ and integration/.
func TestList(t *testing.T) {
	cmd := exec.Command("go", "list", "-f", `{{if eq .Name "main"}}{{.ImportPath}}{{end}}`, "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, path := range strings.Fields(string(out)) {
		pkg := strings.TrimPrefix(path, "github.com/tproxy-cni/tproxy-cni/")
		if room, _, _ := strings.Cut(pkg, "/"); room != "internal" && room != "integration" {
			want = append(want, "./"+pkg)
		}
	}
	var ours, names []string
	for _, p := range All() {
		names = append(names, p.Name)
		if p.Ours() {
			ours = append(ours, p.Package)
		}
	}
	slices.Sort(ours)
	slices.Sort(want)
	slices.Sort(names)
	if !slices.Equal(ours, want) {
		t.Errorf("the list has %v, the repository %v", ours, want)
	}
	if len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Errorf("a name twice: %v", names)
	}
}

// What make builds is what the list has.
func TestMakefile(t *testing.T) {
	cmd := exec.Command("make", "-s", "-n", "-C", "../..", "build", "upstream")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, p := range All() {
		want := p.Package
		if p.Ours() {
			want = p.Name + "=" + p.Package
		}
		if !slices.Contains(strings.FieldsFunc(string(out), func(r rune) bool { return strings.ContainsRune(" ;\n", r) }), want) {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
}

func TestBuild(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "bin")
	if err := Build(t.Context(), "../..", dir, "tproxy-cni", "host-local"); err != nil {
		t.Fatal(err)
	}
	built, err := filepath.Glob(dir + "/*")
	if want := []string{dir + "/host-local", dir + "/tproxy-cni"}; err != nil || !slices.Equal(built, want) {
		t.Errorf("built %v, want %v (%v)", built, want, err)
	}
	if err := Build(t.Context(), "../..", dir, "tproxy"); err == nil {
		t.Error("a program that is not in the list, and no error")
	}
}
