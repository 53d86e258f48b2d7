package imports

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// mostFiles is how many files of one package may use one another in a circle.
// A circle is read as one file, however many names it has on the disk.
const mostFiles = 4

// graph maps file A → file B → the names declared in B that A uses: types,
// functions, methods, fields, constants and variables of the package.
type graph map[string]map[string]map[string]bool

// ties returns the edges among files, a line each: "a.go → b.go: name, name".
func (g graph) ties(files []string) string {
	var b strings.Builder
	for _, from := range files {
		for _, to := range slices.Sorted(maps.Keys(g[from])) {
			if slices.Contains(files, to) {
				fmt.Fprintf(&b, "\n\t%s → %s: %s", from, to, strings.Join(slices.Sorted(maps.Keys(g[from][to])), ", "))
			}
		}
	}
	return b.String()
}

// circles returns the strongly connected components of more than one file,
// the largest first (Tarjan's algorithm).
func (g graph) circles() [][]string {
	var (
		found  [][]string
		stack  []string
		number = map[string]int{} // in the order of visits, from 1
		lowest = map[string]int{} // the lowest number that can be reached, while on the stack
		visit  func(string)
	)
	visit = func(f string) {
		number[f] = len(number) + 1
		lowest[f] = number[f]
		stack = append(stack, f)
		for _, to := range slices.Sorted(maps.Keys(g[f])) {
			if number[to] == 0 {
				visit(to)
				lowest[f] = min(lowest[f], lowest[to])
			} else if slices.Contains(stack, to) {
				lowest[f] = min(lowest[f], number[to])
			}
		}
		if lowest[f] == number[f] {
			at := slices.Index(stack, f)
			if circle := slices.Sorted(slices.Values(stack[at:])); len(circle) > 1 {
				found = append(found, circle)
			}
			stack = stack[:at]
		}
	}
	for _, f := range slices.Sorted(maps.Keys(g)) {
		if number[f] == 0 {
			visit(f)
		}
	}
	slices.SortFunc(found, func(a, b []string) int { return len(b) - len(a) })
	return found
}

// compiled is a package as go list -export describes it.
type compiled struct {
	ImportPath, Dir, Export string
	CgoFiles, GoFiles       []string
	DepOnly                 bool
}

// modules are the repository's Go modules that have more than tests, with the packages
// to draw. The cluster's hyper would compile Kubernetes.
var modules = map[string][]string{
	".":                   {"./..."},
	"integration/bench":   {"./..."},
	"integration/cluster": {".", "./box"},
	"k8s/images":          {"./..."},
	"k8s/release":         {"./..."},
}

// compile returns the packages of a module with all that they are made of.
func compile(t *testing.T, mod string) []compiled {
	t.Helper()
	args := append([]string{"list", "-export", "-deps", "-json=ImportPath,Dir,Export,CgoFiles,GoFiles,DepOnly"}, modules[mod]...)
	cmd := exec.Command("go", args...)
	cmd.Dir = filepath.Join("../..", mod)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []compiled
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var c compiled
		err := dec.Decode(&c)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
}

// check type-checks one package, tests left out.
func check(t *testing.T, p compiled, fset *token.FileSet, imp types.Importer) ([]*ast.File, *types.Package, *types.Info) {
	t.Helper()
	if len(p.CgoFiles) > 0 {
		t.Fatalf("%s uses cgo, which this test cannot read", p.ImportPath)
	}
	var parsed []*ast.File
	for _, name := range p.GoFiles {
		f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		parsed = append(parsed, f)
	}
	info := types.Info{Uses: map[*ast.Ident]types.Object{}, Types: map[ast.Expr]types.TypeAndValue{}}
	pkg, err := (&types.Config{Importer: imp}).Check(p.ImportPath, fset, parsed, &info)
	if err != nil {
		t.Fatal(err)
	}
	return parsed, pkg, &info
}

// files returns the graph of a package's files, which has every file, tied to
// others or not.
func files(t *testing.T, p compiled, fset *token.FileSet, imp types.Importer) graph {
	t.Helper()
	_, pkg, info := check(t, p, fset, imp)
	in := func(pos token.Pos) string { return filepath.Base(fset.Position(pos).Filename) }
	g := graph{}
	for _, name := range p.GoFiles {
		g[name] = map[string]map[string]bool{}
	}
	for id, o := range info.Uses {
		// What one file uses of another is never local to a function.
		from := in(id.Pos())
		if o.Pkg() != pkg || in(o.Pos()) == from {
			continue
		}
		to := in(o.Pos())
		if g[from][to] == nil {
			g[from][to] = map[string]bool{}
		}
		g[from][to][o.Name()] = true
	}
	return g
}

// The files of a package can be read one after the other: what they use of one
// another makes no circle of more than mostFiles. The graph is shown by
//
//	go test ./internal/imports -run Circles -v
func TestCircles(t *testing.T) {
	for mod := range modules {
		circlesOf(t, mod)
	}
}

// circlesOf is TestCircles for one module.
func circlesOf(t *testing.T, mod string) {
	t.Helper()
	all := compile(t, mod)
	exports := map[string]string{}
	for _, p := range all {
		exports[p.ImportPath] = p.Export
	}
	fset := token.NewFileSet()
	imp := importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) {
		return os.Open(exports[path])
	})
	for _, p := range all {
		if p.DepOnly || len(p.GoFiles) == 0 {
			continue
		}
		name := strings.TrimPrefix(p.ImportPath, module)
		t.Run(name, func(t *testing.T) {
			g := files(t, p, fset, imp)
			if all := slices.Sorted(maps.Keys(g)); len(all) > 1 {
				t.Logf("the %d files of %s use of one another:%s", len(all), name, g.ties(all))
			}
			for _, c := range g.circles() {
				t.Logf("a circle of %d: %s", len(c), strings.Join(c, " "))
				if len(c) > mostFiles {
					t.Errorf("%d files of %s use one another in a circle (%d at most): %s%s",
						len(c), name, mostFiles, strings.Join(c, " "), g.ties(c))
				}
			}
		})
	}
}

// A circle that goes the long way round is found, and one file that leads
// into it, or out of it, is not of it.
func TestCirclesAreFound(t *testing.T) {
	tie := func(to ...string) map[string]map[string]bool {
		m := map[string]map[string]bool{}
		for _, f := range to {
			m[f] = map[string]bool{"x": true}
		}
		return m
	}
	g := graph{
		"main": tie("a"), "a": tie("b", "leaf"), "b": tie("c"), "c": tie("d"), "d": tie("e"), "e": tie("a"),
		"leaf": tie(), "p": tie("q", "main"), "q": tie("p"),
	}
	var got []string
	for _, c := range g.circles() {
		got = append(got, strings.Join(c, " "))
	}
	if want := []string{"a b c d e", "p q"}; !slices.Equal(got, want) {
		t.Errorf("circles %q, want %q", got, want)
	}
}
