package main

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// checkManifests: every file is YAML objects as in the sources, which name our
// images as released.
func checkManifests(t *testing.T, dir string) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		file := filepath.Base(path)
		text := string(read(t, path))
		if file == "rules.yaml" { // Prometheus', with no kind
			if !strings.Contains(text, "\ngroups:\n- name: ") {
				t.Errorf("no rules:\n%s", text)
			}
			continue
		}
		objects := parse(t, text)
		kinds := map[string]int{}
		for _, o := range objects {
			kinds[o.GetKind()]++
		}
		images := checkImageNames(t, file, text)
		switch action, _, _ := strings.Cut(file, "-"); action {
		case "install", "repair", "uninstall":
			if kinds["DaemonSet"] != 1 || kinds["Namespace"] != 1 || kinds["ServiceAccount"] != 1 {
				t.Errorf("%s has %v", file, kinds)
			}
			if diff := cmp.Diff([]string{"example.org/here/tproxy-cni:v1.2.3-rc.1"}, images); diff != "" {
				t.Errorf("%s: images (-want +got):\n%s", file, diff)
			}
		case "inject.yaml":
			if kinds["MutatingAdmissionPolicy"] != 1 || len(images) == 0 {
				t.Errorf("%s has %v and images %q", file, kinds, images)
			}
		case "monitoring.yaml":
			if want := map[string]int{"PodMonitor": 2, "PrometheusRule": 1, "ConfigMap": 1}; !maps.Equal(kinds, want) {
				t.Errorf("%s has %v", file, kinds)
			}
		case "deploy":
			if kinds["Deployment"] != 1 {
				t.Errorf("%s has %v", file, kinds)
			}
		default:
			t.Errorf("what is %s?", file)
		}
	}
	// What differs between distributions survived.
	if text := string(read(t, filepath.Join(dir, "install-gke.yaml"))); !strings.Contains(text, "/home/kubernetes/bin") {
		t.Error("install-gke.yaml lacks GKE's directory")
	}
	if text := string(read(t, filepath.Join(dir, "uninstall-kind.yaml"))); !strings.Contains(text, "- uninstall\n") {
		t.Error("uninstall-kind.yaml does not uninstall")
	}
}

// checkImageNames are the images of ours that a text names: all as released.
func checkImageNames(t *testing.T, file, text string) []string {
	t.Helper()
	found := slices.DeleteFunc(named.FindAllString(text, -1), func(name string) bool {
		return strings.HasPrefix(name, "system:serviceaccount:") // OpenShift's users
	})
	for _, image := range found {
		if !strings.HasPrefix(image, registry+"/") || !strings.HasSuffix(image, ":"+version) {
			t.Errorf("%s names %s", file, image)
		}
	}
	if strings.Contains(text, ":latest") {
		t.Errorf("%s names an image by the tag latest", file)
	}
	return found
}

func parse(t *testing.T, text string) []*yaml.RNode {
	t.Helper()
	nodes, err := (&kio.ByteReader{Reader: strings.NewReader(text), OmitReaderAnnotations: true}).Read()
	if err != nil {
		t.Fatal(err)
	}
	return nodes
}

// checkChart loads the chart as Helm does and renders it for each distribution:
// the DaemonSet is that of the file for `kubectl apply`.
func checkChart(t *testing.T, dir string) {
	path := filepath.Join(dir, "tproxy-cni-1.2.3-rc.1.tgz")
	c, err := loader.LoadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if c.Metadata.Version != "1.2.3-rc.1" || c.Metadata.AppVersion != version || c.Metadata.Name != "tproxy-cni" {
		t.Errorf("the chart is %+v", c.Metadata)
	}
	z, err := gzip.NewReader(bytes.NewReader(read(t, path)))
	if err != nil {
		t.Fatal(err)
	}
	var packed []string
	for name := range unpack(t, z) {
		packed = append(packed, strings.TrimPrefix(name, "tproxy-cni/"))
	}
	slices.Sort(packed)
	source, err := tree("../chart", "")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, e := range source {
		want = append(want, e.name)
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, packed); diff != "" {
		t.Errorf("files (-source +chart):\n%s", diff)
	}
	for _, distribution := range distributions {
		values, err := util.ToRenderValues(c, map[string]any{"distribution": distribution, "inject": true},
			common.ReleaseOptions{Name: "tproxy-cni", Namespace: "tproxy-cni"}, common.DefaultCapabilities)
		if err != nil {
			t.Fatal(err)
		}
		parts, err := engine.Render(c, values)
		if err != nil {
			t.Fatal(err)
		}
		text := ""
		for _, name := range slices.Sorted(maps.Keys(parts)) {
			if strings.HasSuffix(name, ".yaml") {
				text += "---\n" + parts[name] + "\n"
			}
		}
		if n := len(checkImageNames(t, "the chart for "+distribution, text)); n != 2 {
			t.Errorf("the chart for %s names %d images, want the installer's and the sidecar's", distribution, n)
		}
		install := string(read(t, filepath.Join(dir, "install-"+distribution+".yaml")))
		if diff := cmp.Diff(daemonSet(t, install), daemonSet(t, text)); diff != "" {
			t.Errorf("%s: DaemonSet (-install-%s.yaml +chart):\n%s", distribution, distribution, diff)
		}
	}
}

// daemonSet is the one DaemonSet of a text.
func daemonSet(t *testing.T, text string) map[string]any {
	t.Helper()
	for _, o := range parse(t, text) {
		if o.GetKind() == "DaemonSet" {
			m, err := o.Map()
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
	}
	t.Fatal("no DaemonSet")
	return nil
}

// checkSBOM reads the SBOM and compares it with the programs in the archives.
func checkSBOM(t *testing.T, dir string) {
	f, err := os.Open(filepath.Join(dir, "tproxy-cni-"+version+".cdx.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(f, cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	if bom.BOMFormat != cdx.BOMFormat || bom.Metadata.Component.Version != version {
		t.Errorf("SBOM: %s of %s", bom.BOMFormat, bom.Metadata.Component.Version)
	}
	// As scanners read them; a module with another character would need escaping.
	purl := regexp.MustCompile(`^pkg:golang/[a-z0-9._~/-]+@[A-Za-z0-9._-]+$`)
	have, refs := map[string]string{}, map[string]bool{bom.Metadata.Component.BOMRef: true}
	for _, c := range *bom.Components {
		if refs[c.BOMRef] {
			t.Errorf("%s is there twice", c.BOMRef)
		}
		refs[c.BOMRef] = true
		have[c.Name] = c.Version
		if c.Hashes != nil {
			have[c.Name] = (*c.Hashes)[0].Value
		} else if !purl.MatchString(c.PackageURL) {
			t.Errorf("package URL %s", c.PackageURL)
		}
	}
	for _, d := range *bom.Dependencies {
		if !refs[d.Ref] {
			t.Errorf("dependencies of %s, which is not in the SBOM", d.Ref)
		}
		delete(refs, d.Ref)
	}
	// The format asks for an entry of each component, also of those without dependencies.
	if programsLeft := slices.Sorted(maps.Keys(refs)); len(programsLeft) > 0 {
		t.Errorf("no dependencies of %q", programsLeft)
	}
	want := map[string]string{}
	for _, arch := range arches {
		top := "tproxy-cni-" + version + "-linux-" + arch
		z, err := gzip.NewReader(bytes.NewReader(read(t, filepath.Join(dir, top+".tar.gz"))))
		if err != nil {
			t.Fatal(err)
		}
		for name, content := range unpack(t, z) {
			if filepath.Base(name) == "LICENSE" {
				continue
			}
			info, err := buildinfo.Read(bytes.NewReader(content))
			if err != nil {
				t.Fatal(err)
			}
			want[filepath.Base(name)+"-linux-"+arch] = fmt.Sprintf("%x", sha256.Sum256(content))
			want["stdlib"] = strings.TrimPrefix(info.GoVersion, "go")
			for _, m := range info.Deps {
				want[m.Path] = m.Version
			}
		}
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("SBOM (-programs +SBOM):\n%s", diff)
	}
	if have["github.com/google/nftables"] == "" || have["google.golang.org/grpc"] == "" {
		t.Error("the SBOM lacks what the plugin and the installer are made of")
	}
}
