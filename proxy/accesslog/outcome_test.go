package accesslog

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"testing"
)

// TestEnds: every word that has a name here is in the set, and none is twice.
func TestEnds(t *testing.T) {
	for i, end := range Ends {
		if slices.Index(Ends[:], end) != i {
			t.Errorf("%q is twice", end)
		}
	}
	file, err := parser.ParseFile(token.NewFileSet(), "outcome.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	words := 0
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && len(spec.Values) == 1 {
			if lit, ok := spec.Values[0].(*ast.BasicLit); ok && lit.Kind == token.STRING {
				words++
				if word, err := strconv.Unquote(lit.Value); err != nil || !slices.Contains(Ends[:], word) {
					t.Errorf("%s = %q is not in Ends (%v)", spec.Names[0].Name, word, err)
				}
			}
		}
		return true
	})
	if words < 9 {
		t.Errorf("only %d words found", words)
	}
}
