// Package imports holds the repository to its import directions: the programs
// above, the ground that they share below, the proving ground apart.
//
//	plugin, install… → internal/settings → internal/intercept → internal/contract → nothing
//	proxy, install   → internal/adminhttp → internal/source
//	proxy            → proxy/probe → proxy/dial → proxy/sock → proxy/sys
//	proxy            → proxy/relay → proxy/sock → proxy/sys
//	proxy            → proxy/metrics → proxy/stats → proxy/accesslog
//	programs         → internal/flags, internal/drain, internal/version
//	integration/lab  is for tests, the demo and the soak
//
// No program imports another.
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
	"internal/contract":  {},
	"internal/version":   {},
	"internal/xtables":   {},
	"internal/imports":   {},
	"docs":               {}, // the test of REFERENCE.md
	"internal/programs":  {},
	"internal/setup":     {},
	"internal/printable": {},
	"internal/flags":     {"internal/printable", "internal/ranges"},
	"internal/ranges":    {"internal/printable"},
	"internal/drain":     {},
	"internal/source":    {},
	"internal/term":      {},
	"internal/adminhttp": {"internal/source"},
	"internal/intercept": {"internal/bpf", "internal/contract", "internal/lacks", "internal/printable", "internal/version", "internal/xtables"},
	"internal/bpf":       {},
	"internal/lacks":     {}, // set by tests only
	"internal/settings":  {"internal/contract", "internal/intercept", "internal/printable", "internal/ranges"},

	"plugin": {"internal/contract", "internal/intercept", "internal/printable", "internal/settings", "internal/version"},
	"proxy": {
		"proxy/accesslog", "proxy/dial", "proxy/handover", "proxy/metrics", "proxy/podstat", "proxy/probe", "proxy/proxyproto", "proxy/relay", "proxy/report", "proxy/sock", "proxy/stats", "proxy/sys",
		"internal/adminhttp", "internal/contract", "internal/drain", "internal/flags", "internal/printable", "internal/ranges", "internal/source", "internal/version",
	},
	"proxy/proxyproto": {},
	"proxy/sys":        {},
	"proxy/sock":       {"proxy/sys"},
	"proxy/report":     {"internal/adminhttp", "internal/contract", "internal/printable", "proxy/podstat", "proxy/stats"},
	"proxy/relay":      {"proxy/sock", "proxy/sys"},
	"proxy/accesslog":  {"internal/drain"},
	"proxy/handover":   {"internal/contract", "internal/printable", "proxy/dial", "proxy/probe", "proxy/relay", "proxy/sock", "proxy/stats", "proxy/sys"},
	"proxy/stats":      {"proxy/accesslog"},
	"proxy/podstat":    {"internal/contract", "internal/printable"},
	"proxy/metrics":    {"internal/contract", "internal/printable", "proxy/accesslog", "proxy/podstat", "proxy/stats"},
	"proxy/dial":       {"internal/contract", "proxy/accesslog", "proxy/sock"},
	"proxy/probe":      {"internal/contract", "proxy/dial", "proxy/podstat", "proxy/sock", "proxy/sys"},
	"echo-server":      {"internal/contract", "internal/drain", "internal/flags", "internal/version"},
	"install": {
		"install/disk", "install/explain", "install/explain/gather", "install/health", "install/inject", "install/node", "install/overview", "install/pods", "install/preflight", "install/repair", "install/state",
		"internal/contract", "internal/flags", "internal/intercept", "internal/printable", "internal/settings", "internal/term", "internal/version",
	},
	"install/conflist":       {"internal/contract"},
	"install/disk":           {"internal/printable"},
	"install/explain":        {"install/explain/trace", "internal/contract", "internal/intercept", "internal/printable", "internal/term"},
	"install/explain/gather": {"install/explain", "install/explain/trace", "internal/contract", "internal/intercept"},
	"install/explain/trace":  {"internal/intercept"},
	"install/health":         {"install/node", "install/preflight", "install/state", "internal/adminhttp", "internal/contract", "internal/printable", "internal/version"},
	"install/inject":         {"internal/contract", "internal/printable", "internal/settings"},
	"install/node":           {"install/conflist", "install/disk", "internal/contract", "internal/printable"},
	"install/node/nodetest":  {"install/node", "internal/contract", "internal/settings"}, // for tests
	"install/overview":       {"install/node", "install/pods", "install/preflight", "install/state", "internal/contract", "internal/intercept", "internal/printable", "internal/settings", "internal/term"},
	"install/pods":           {"internal/contract", "internal/printable"},
	"install/preflight":      {"internal/contract", "internal/intercept", "internal/printable"},
	"install/repair":         {"install/pods", "install/state", "internal/contract", "internal/intercept", "internal/printable"},
	"install/state":          {"install/pods", "internal/contract", "internal/intercept", "internal/settings"},

	"integration":         {},
	"integration/lab":     {"internal/contract"},
	"integration/demo":    {"integration/lab", "internal/contract"},
	"integration/faults":  {"integration/results"},
	"integration/fresh":   {},
	"integration/kernels": {"integration/lab", "internal/contract", "internal/programs"},
	"integration/results": {},
	"integration/samples": {},
	"integration/soak":    {"integration/lab", "integration/results", "integration/samples", "integration/traffic", "internal/contract"},
	"integration/traffic": {},
}

// never are what a program must not be made of, anywhere below it: the plugin
// runs at every pod's start and asks no API server, and the sidecar stays small.
var never = map[string][]string{
	"plugin":      {"k8s.io/", "net/http", "github.com/prometheus/"},
	"proxy":       {"k8s.io/", "github.com/containernetworking/", "github.com/vishvananda/", "github.com/google/nftables"},
	"echo-server": {"k8s.io/", "github.com/"},
}

// rooms are the packages that alone import something, tests aside: what is heavy, and
// what is unsafe.
var rooms = map[string]string{
	"unsafe":                              "proxy/sys internal/bpf internal/xtables integration/traffic",
	"github.com/prometheus/client_golang": "install/health",
	"google.golang.org/grpc":              "install/pods",
	"k8s.io/cri-api":                      "install/pods",
	"go.yaml.in/yaml":                     "install/inject",
	"sigs.k8s.io/yaml":                    "install/inject",
	"github.com/pires/go-proxyproto":      "proxy/proxyproto",
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

func TestRooms(t *testing.T) {
	found := map[string]bool{}
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		for _, i := range p.Imports {
			for prefix, room := range rooms {
				if !strings.HasPrefix(i, prefix) {
					continue
				}
				if found[prefix] = true; !slices.Contains(strings.Fields(room), name) {
					t.Errorf("%s imports %s, which is for %s", name, i, room)
				}
			}
		}
	}
	for prefix := range rooms {
		if !found[prefix] {
			t.Errorf("nothing imports %s any more", prefix)
		}
	}
}
