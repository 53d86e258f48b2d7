package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// apart are packages whose sentences the page leaves out, each with the reason: they
// answer the person who has just typed a command, and say themselves what to do, or
// nothing that a user sees comes from them.
var apart = map[string]string{
	"echo-server":           "a demo",
	"install/inject":        "a command: names the line of the manifest",
	"integration":           "tests",
	"k8s":                   "tests, and programs of the developers",
	"internal/flags":        "a command line: names the flag and what it takes",
	"internal/setup":        "a program of the developers",
	"install/explain":       "the command explain: its verdicts say themselves what to do next",
	"install/overview":      "the command status: says itself what to do next",
	"internal/programs":     "a program of the developers",
	"install/node/nodetest": "tests",
}

// sentence is a text that a program says, as it stands in the code: with … for each
// part that is known only when it runs.
type sentence struct {
	text, place string
}

// sentences are all errors, warnings of the log, differences that CHECK names and
// notes on the node's configuration of the main module.
func sentences(t *testing.T) (all []sentence) {
	t.Helper()
	set := token.NewFileSet()
	files := map[string]*ast.File{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		name := filepath.ToSlash(strings.TrimPrefix(path, "../"))
		switch {
		case err != nil:
			return err
		case d.IsDir() && (apart[name] != "" || strings.HasPrefix(d.Name(), ".") && path != ".."):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		files[name], err = parser.ParseFile(set, path, nil, 0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	known := constants(files)
	for name, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			for _, e := range known.said(n) {
				if text, ok := known.textOf(e); ok && words(text) > 0 {
					at := set.Position(e.Pos())
					all = append(all, sentence{text, name + ":" + strconv.Itoa(at.Line)})
				}
			}
			return true
		})
	}
	return all
}

// texts are the constants that are texts, by name: those of packages that sentences
// are made of have different ones.
type texts map[string]string

func constants(files map[string]*ast.File) texts {
	known := texts{}
	for _, file := range files {
		for _, d := range file.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.CONST {
				continue
			}
			for _, spec := range g.Specs {
				s := spec.(*ast.ValueSpec)
				for i, v := range s.Values {
					if text, ok := known.textOf(v); ok && words(text) > 2 {
						known[s.Names[i].Name] = text
					}
				}
			}
		}
	}
	return known
}

// speakers are functions by which the code says something, with the argument that is
// the text.
var speakers = map[string]int{
	"errors.New": 0, "fmt.Errorf": 0, "types.NewError": 1,
	"log.Warn": 0, "log.Error": 0, "Warn": 0, "Error": 0, // the last two for logger().Warn
	"l.Warn": 0, // of package accesslog
	"fault":  1, // of packages probe and intercept
	"wrap":   0, // of package intercept
}

// parts are variables for sentences and parts of them.
var parts = []string{"text", "note", "problem", "holder"}

// said are the expressions in n that are sentences.
func (known texts) said(n ast.Node) []ast.Expr {
	switch n := n.(type) {
	case *ast.CallExpr:
		name := ""
		switch f := n.Fun.(type) {
		case *ast.Ident:
			name = f.Name
		case *ast.SelectorExpr:
			name = selected(f)
		}
		if name == "append" && len(n.Args) > 1 && listOfTexts(n.Args[0]) {
			return n.Args[1:]
		}
		if at, ok := speakers[name]; ok && at < len(n.Args) {
			return n.Args[at : at+1]
		}
	case *ast.CompositeLit: // probe.Fault{Text: …}
		for _, e := range n.Elts {
			if kv, ok := e.(*ast.KeyValueExpr); ok {
				if key, ok := kv.Key.(*ast.Ident); ok && key.Name == "Text" {
					return []ast.Expr{kv.Value}
				}
			}
		}
	case *ast.AssignStmt: // text := "…"
		if name, ok := n.Lhs[0].(*ast.Ident); ok && slices.Contains(parts, name.Name) && len(n.Rhs) == 1 {
			if text, _ := known.textOf(n.Rhs[0]); words(text) > 2 {
				return n.Rhs
			}
		}
	case *ast.FuncDecl: // Error methods, and functions that return a sentence
		return known.returned(n)
	}
	return nil
}

// selected is the function's name behind the last part of what has it: log.Warn also
// for p.log.Warn.
func selected(f *ast.SelectorExpr) string {
	switch x := f.X.(type) {
	case *ast.Ident:
		return x.Name + "." + f.Sel.Name
	case *ast.SelectorExpr:
		return x.Sel.Name + "." + f.Sel.Name
	}
	return f.Sel.Name
}

// listOfTexts reports whether texts for users are gathered in e.
func listOfTexts(e ast.Expr) bool {
	name := ""
	switch e := e.(type) {
	case *ast.Ident:
		name = e.Name
	case *ast.SelectorExpr:
		name = e.Sel.Name
	}
	return name == "drift" || name == "wrong" || strings.EqualFold(name, "notes")
}

// returned are the sentences that a function returns where its result is one text:
// an Error method, or a part of a longer sentence.
func (known texts) returned(f *ast.FuncDecl) (all []ast.Expr) {
	results := f.Type.Results
	if results == nil || len(results.List) != 1 || f.Body == nil || f.Name.Name == "about" { // a program's --help
		return nil
	}
	if kind, ok := results.List[0].Type.(*ast.Ident); !ok || kind.Name != "string" {
		return nil
	}
	ast.Inspect(f.Body, func(n ast.Node) bool {
		if r, ok := n.(*ast.ReturnStmt); ok && len(r.Results) == 1 {
			if text, _ := known.textOf(r.Results[0]); words(text) > 2 || f.Name.Name == "Error" && words(text) > 0 {
				all = append(all, r.Results[0])
			}
		}
		return true
	})
	return all
}

var verb = regexp.MustCompile(`%[-+# 0]*[0-9]*(\.[0-9]+)?[a-zA-Z]`)

// textOf is a string expression as a template; ok is false if nothing of it is known.
func (known texts) textOf(e ast.Expr) (text string, ok bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		if e.Kind == token.STRING {
			s, err := strconv.Unquote(e.Value)
			return strings.ReplaceAll(verb.ReplaceAllString(s, "…"), "\n", " "), err == nil
		}
	case *ast.Ident:
		text, ok = known[e.Name]
		return text, ok
	case *ast.SelectorExpr:
		return known.textOf(e.Sel)
	case *ast.BinaryExpr:
		left, l := known.textOf(e.X)
		right, r := known.textOf(e.Y)
		return strings.ReplaceAll(or(l, left)+or(r, right), "……", "…"), l || r
	case *ast.ParenExpr:
		return known.textOf(e.X)
	case *ast.CallExpr:
		if f, ok := e.Fun.(*ast.SelectorExpr); ok && f.Sel.Name == "Sprintf" && len(e.Args) > 0 {
			return known.textOf(e.Args[0])
		}
	}
	return "", false
}

func or(known bool, text string) string {
	if known {
		return text
	}
	return "…"
}

// words counts the words of a template.
func words(text string) int {
	return len(regexp.MustCompile(`[A-Za-z][\w.-]+`).FindAllString(text, -1))
}
