package imports

import (
	"go/ast"
	"go/constant"
	"go/importer"
	"go/token"
	"go/types"
	"io"
	"os"
	"regexp"
	"testing"
)

var snakeCase = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)

// logCalls are the functions and methods of log/slog that take keys and values,
// with the number of arguments before those.
var logCalls = map[string]int{
	"Debug": 1, "Info": 1, "Warn": 1, "Error": 1,
	"DebugContext": 2, "InfoContext": 2, "WarnContext": 2, "ErrorContext": 2,
	"Log": 3, "With": 0, "Group": 1,
	"Any": 0, "Bool": 0, "Duration": 0, "Int": 0, "Int64": 0, "String": 0, "Time": 0, "Uint64": 0,
}

// Every log key is a constant in snake_case, so that one query finds a thing in
// the logs of all programs, and an address is logged as a string: JSON would
// make an object of a net.Addr.
func TestLogKeys(t *testing.T) {
	all := compile(t, ".")
	exports := map[string]string{}
	for _, p := range all {
		exports[p.ImportPath] = p.Export
	}
	fset := token.NewFileSet()
	imp := importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	network, err := imp.Import("net")
	if err != nil {
		t.Fatal(err)
	}
	address := network.Scope().Lookup("Addr").Type().Underlying().(*types.Interface)
	keys := 0
	for _, p := range all {
		if p.DepOnly || len(p.GoFiles) == 0 {
			continue
		}
		parsed, _, info := check(t, p, fset, imp)
		for _, f := range parsed {
			ast.Inspect(f, func(n ast.Node) bool {
				for i, arg := range logged(n, info) {
					typed, where := info.Types[arg], fset.Position(arg.Pos())
					switch {
					case i%2 == 1:
						if types.Implements(typed.Type, address) {
							t.Errorf("%s: log its String()", where)
						}
					case typed.Value == nil || !snakeCase.MatchString(constant.StringVal(typed.Value)):
						t.Errorf("%s: want a constant in snake_case as log key, not %s", where, types.ExprString(arg))
					default:
						keys++
					}
				}
				return true
			})
		}
	}
	if keys < 50 { // there are more than 100
		t.Errorf("only %d keys found", keys)
	}
}

// logged are the keys and values of n if it is a call of log/slog.
func logged(n ast.Node, info *types.Info) []ast.Expr {
	call, ok := n.(*ast.CallExpr)
	if !ok || call.Ellipsis.IsValid() {
		return nil
	}
	s, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return nil
	}
	f, ok := info.Uses[s.Sel].(*types.Func)
	if !ok || f.Pkg() == nil || f.Pkg().Path() != "log/slog" {
		return nil
	}
	before, ok := logCalls[f.Name()]
	if !ok || len(call.Args) <= before {
		return nil
	}
	return call.Args[before:]
}
