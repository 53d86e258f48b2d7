package test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/yaml"

	"github.com/tproxy-cni/tproxy-cni/internal/settings"
)

// TestReadme: what the install page names exists.
func TestReadme(t *testing.T) {
	text := string(read(t, root+"README.md"))
	var paths []string
	for _, p := range regexp.MustCompile(`\bk8s/[\w./-]+`).FindAllString(text, -1) {
		paths = append(paths, strings.TrimPrefix(strings.TrimRight(p, "."), "k8s/"))
	}
	for _, m := range regexp.MustCompile(`\]\(([^)]+)\)`).FindAllStringSubmatch(text, -1) {
		paths = append(paths, m[1])
	}
	if len(paths) < 20 {
		t.Fatalf("only %d paths: %q", len(paths), paths)
	}
	for _, p := range paths {
		file, _, _ := strings.Cut(p, "#") // headings: see docs
		if _, err := os.Stat(root + file); err != nil {
			t.Errorf("the page names %s: %v", p, err)
		}
	}
	// And what exists is named; for overlays see TestPlatforms.
	for _, f := range files(t) {
		if !slices.Contains(paths, filepath.Base(f)) {
			t.Errorf("the page does not name %s", filepath.Base(f))
		}
	}
}

// TestReadmeCommands: what the page's commands name exists, too: targets and
// variables of make, archives, objects in the cluster, flags and values.
func TestReadmeCommands(t *testing.T) {
	text := string(read(t, root+"README.md")) + string(read(t, root+"../docs/PLATFORMS.md"))
	makefile := string(read(t, root+"../Makefile"))
	find := func(pattern string, least int) (all [][]string) {
		t.Helper()
		if all = regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1); len(all) < least {
			t.Errorf("only %d times %s", len(all), pattern)
		}
		return all
	}
	for _, m := range find("(?m)(?:^|`)make ([a-z][a-z0-9-]*)(?: ([A-Z_]+)=)?", 7) {
		if !strings.Contains(makefile, "\n"+m[1]+":") || m[2] != "" && !regexp.MustCompile(`(?m)^`+m[2]+` *\?=`).MatchString(makefile) {
			t.Errorf("no such target or variable: %s", m[0])
		}
	}
	for _, m := range find(`for i in ([a-z -]+); do [a-z0-9 ]+ (?:-n k8s.io )?images? import dist/images/\$i-amd64.tar`, 3) {
		if m[1] != "tproxy-cni echo-server" {
			t.Errorf("not the two images that the demos need: %s", m[0])
		}
		for name := range strings.FieldsSeq(m[1]) {
			if !strings.Contains(makefile, "dist/images/"+name+"-$(ARCH).tar") {
				t.Errorf("make writes no archive of %s", name)
			}
		}
	}
	objects := map[string]bool{}
	for _, f := range files(t) {
		for _, o := range decode(t, read(t, f)) {
			if d, ok := o.(*appsv1.Deployment); ok {
				objects[d.Namespace+" deploy/"+d.Name] = true
			}
		}
	}
	ds := only[*appsv1.DaemonSet](t, decode(t, kustomize(t, "install/kind")))
	objects[ds.Namespace+" ds/"+ds.Name] = true
	for _, m := range find(`kubectl -n (\S+) (?:rollout status|exec) (\S+/[a-z-]+)`, 5) {
		if !objects[m[1]+" "+m[2]] {
			t.Errorf("no such object: %s", m[0])
		}
	}
	var values map[string]any
	if err := yaml.Unmarshal(read(t, root+"chart/values.yaml"), &values); err != nil {
		t.Fatal(err)
	}
	for _, m := range find(`--set (\w+)=`, 2) {
		if _, ok := values[m[1]]; !ok {
			t.Errorf("the chart has no value %s", m[1])
		}
	}
	ours := string(read(t, root+"../install/config.go")) + string(read(t, root+"../install/explain_config.go")) + string(read(t, root+"../proxy/config_header.go")) + string(read(t, root+"../proxy/holdcmd.go"))
	others := []string{"create-namespace", "set", "set-file", "reuse-values", "reset-then-reuse-values", "wait", "all", "profile", "address", "for"} // helm's, skopeo's, kubectl's and ctr's
	for _, m := range find("--([a-z][a-z-]+)", 5) {
		known := slices.ContainsFunc(settings.All(), func(d settings.Setting) bool { return d.Name == m[1] })
		if !known && !slices.Contains(others, m[1]) && !strings.Contains(ours, `"`+m[1]+`", `) {
			t.Errorf("no such flag: %s", m[0])
		}
	}
}
