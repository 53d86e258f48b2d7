// Package imports holds the repository to its import directions:
//
//	plugin → plugin/settings → plugin/redirect → internal/contract → nothing
//	proxy, echo-server → internal/contract, internal/flags, internal/drain
//	install → internal/contract, internal/flags, plugin/settings, plugin/redirect, install/…
//
// No program imports another, and package lab is for tests and the demo.
package imports

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/tproxy-cni/tproxy-cni/"

// may says which of our own packages each may import outside of its tests.
// A package that is not listed here may not exist.
var may = map[string][]string{
	"internal/contract": {},
	"internal/version":  {},
	"internal/imports":  {},
	"internal/flags":    {},
	"internal/drain":    {},
	"internal/lab":      {},
	"internal/demo":     {"internal/contract", "internal/lab"},
	"plugin/redirect":   {"internal/contract"},
	"plugin/settings":   {"internal/contract", "plugin/redirect"},
	"plugin":            {"internal/contract", "internal/version", "plugin/redirect", "plugin/settings"},
	"proxy":             {"internal/contract", "internal/drain", "internal/flags", "internal/version"},
	"echo-server":       {"internal/contract", "internal/drain", "internal/flags", "internal/version"},
	"install/conflist":  {"internal/contract"},
	"install/inject":    {"internal/contract", "plugin/settings"},
	"install": {
		"internal/contract", "internal/flags", "internal/version", "plugin/redirect", "plugin/settings",
		"install/conflist", "install/inject",
	},
	"integration":         {},
	"integration/kernels": {},
}

// never are what a program must not be made of, anywhere below it: the plugin
// runs at every pod's start and asks no API server, and the sidecar stays small.
var never = map[string][]string{
	"plugin":      {"k8s.io/", "net/http", "github.com/prometheus/"},
	"proxy":       {"k8s.io/", "github.com/containernetworking/", "github.com/vishvananda/", "github.com/google/nftables"},
	"echo-server": {"k8s.io/", "github.com/"},
}

type listed struct {
	ImportPath, Name string
	Imports, Deps    []string
}

func list(t *testing.T) []listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Name,Imports,Deps", module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var l listed
		err := dec.Decode(&l)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
}

func TestDirections(t *testing.T) {
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		allowed, ok := may[name]
		if !ok {
			t.Errorf("package %s is not listed in this test", name)
		}
		for _, i := range p.Imports {
			if i, own := strings.CutPrefix(i, module); own && !slices.Contains(allowed, i) {
				t.Errorf("%s imports %s", name, i)
			}
		}
		for _, d := range p.Deps {
			for _, prefix := range never[name] {
				// Ours begin with github.com/, too.
				if strings.HasPrefix(d, prefix) && !strings.HasPrefix(d, module) {
					t.Errorf("%s is made of %s", name, d)
				}
			}
		}
	}
}
