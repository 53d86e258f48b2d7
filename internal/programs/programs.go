// Package programs is the list of the programs that this repository builds: its
// own, and those of the CNI project that attach pods in the tests and the demo.
// The Makefile reads the same list.txt.
package programs

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

//go:embed list.txt
var list string

// Program is a line of list.txt.
type Program struct {
	Name    string // of the binary
	Package string // Go's, "./plugin" from the repository's root or an import path
}

// Ours reports whether the program's source is in this repository.
func (p Program) Ours() bool { return strings.HasPrefix(p.Package, "./") }

// modfile has the versions that the program is built of.
func (p Program) modfile() string {
	if p.Ours() {
		return "go.mod"
	}
	return "tools.mod"
}

// All are the programs in the order of list.txt.
func All() (all []Program) {
	for line := range strings.Lines(list) {
		if f := strings.Fields(line); len(f) == 2 && f[0] != "#" {
			all = append(all, Program{f[0], f[1]})
		}
	}
	return all
}

// Package is the Go package of the program with this name, or "".
func Package(name string) string {
	for _, p := range All() {
		if p.Name == name {
			return p.Package
		}
	}
	return ""
}

// Build builds the named programs, or all where none is named, statically
// linked into dir, which it makes. Root is the repository's. The error has the compiler's
// output.
func Build(ctx context.Context, root, dir string, names ...string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, name := range names {
		if Package(name) == "" {
			return fmt.Errorf("no program %q in internal/programs/list.txt", name)
		}
	}
	for _, p := range All() {
		if len(names) > 0 && !slices.Contains(names, p.Name) {
			continue
		}
		if err := build(ctx, root, p, filepath.Join(dir, p.Name), ""); err != nil {
			return err
		}
	}
	return nil
}

func build(ctx context.Context, root string, p Program, path, define string) error {
	// No buildvcs: git refuses root the repository of another user.
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-ldflags=-s -w"+define, "-modfile="+p.modfile(), "-o", path, p.Package)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", p.Name, err, out)
	}
	return nil
}

// Lacking are the lists of features (package lacks) without which the plugin is tested
// on kernels that have them.
var Lacking = []string{"egress", "egress,tc"}

// LackingDir is where in a directory of programs the plugin is that takes the kernel for
// one that lacks features.
func LackingDir(dir, features string) string { return filepath.Join(dir, "lacks-"+features) }

// BuildLacking builds the plugin for each of Lacking, for tests, into the LackingDir of
// dir.
func BuildLacking(ctx context.Context, root, dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	const plugin = "tproxy-cni"
	for _, features := range Lacking {
		to := LackingDir(dir, features)
		if err := os.MkdirAll(to, 0o755); err != nil {
			return err
		}
		define := " -X github.com/tproxy-cni/tproxy-cni/internal/lacks.Features=" + features
		if err := build(ctx, root, Program{plugin, Package(plugin)}, filepath.Join(to, plugin), define); err != nil {
			return err
		}
	}
	return nil
}
