// Package test holds the manifests and the chart to the programs' contract, to
// the Kubernetes types, to Pod Security and to each other. It is a module of
// its own, so that Helm, kustomize and the API server's admission code never
// become part of the product.
package test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	securityv1 "github.com/openshift/api/security/v1"
	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

const root = "../"

// distributions and actions are the directories for `kubectl apply -k`.
var (
	distributions = []string{"kubeadm", "kind", "k3d", "k3s", "rke2", "k0s", "microk8s", "eks", "aks", "gke", "openshift", "talos", "bottlerocket"}
	actions       = []string{"install", "repair", "uninstall"}
)

func files(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob(root + "*.yaml")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	return names
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// decode reads objects as an API server with strict field validation does:
// what a type does not have, or what is said twice, is an error.
func decode(t *testing.T, text []byte) (objects []runtime.Object) {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, admissionv1.AddToScheme, monitoringv1.AddToScheme, securityv1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	for r := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text))); ; {
		doc, err := r.Read()
		if errors.Is(err, io.EOF) {
			return objects
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(bytes.TrimSpace(doc)) == 0 {
			continue
		}
		o, _, err := decoder.Decode(doc, nil, nil)
		if err != nil {
			t.Errorf("%v\n%s", err, doc)
			continue
		}
		objects = append(objects, o)
	}
}

func kustomize(t *testing.T, dir string) []byte {
	t.Helper()
	m, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), root+dir)
	if err != nil {
		t.Fatalf("%s: %v", dir, err)
	}
	text, err := m.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// only is the one object of type T.
func only[T runtime.Object](t *testing.T, objects []runtime.Object) (found T) {
	t.Helper()
	n := 0
	for _, o := range objects {
		if o, ok := o.(T); ok {
			found = o
			n++
		}
	}
	if n != 1 {
		t.Fatalf("%d objects of type %T, want 1", n, found)
	}
	return found
}

// TestDecode reads all there is.
func TestDecode(t *testing.T) {
	for _, name := range files(t) {
		t.Run(filepath.Base(name), func(t *testing.T) {
			for _, o := range decode(t, read(t, name)) {
				m, err := meta.Accessor(o)
				if err != nil {
					t.Fatal(err)
				}
				// A manifest says itself where it goes.
				switch o.(type) {
				case *corev1.Service, *appsv1.Deployment, *corev1.PodTemplate:
					if m.GetNamespace() == "" {
						t.Errorf("%T %s has no namespace", o, m.GetName())
					}
				}
			}
		})
	}
	for _, action := range actions {
		have, err := os.ReadDir(root + action)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, d := range have {
			names = append(names, d.Name())
		}
		for _, d := range distributions {
			if !slices.Contains(names, d) {
				t.Errorf("no %s/%s", action, d)
				continue
			}
			t.Run(action+"/"+d, func(t *testing.T) { decode(t, kustomize(t, action+"/"+d)) })
		}
	}
}

// TestBecause finds capabilities, sysctls, host paths and privileges without a
// comment that says why.
func TestBecause(t *testing.T) {
	var names []string
	for _, dir := range []string{root, root + "chart"} {
		err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err == nil && filepath.Ext(path) == ".yaml" && !strings.Contains(path, "/test/") {
				names = append(names, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range names {
		lines := strings.Split(string(read(t, name)), "\n")
		for i, line := range lines {
			word := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "- "))
			if len(word) == 0 {
				continue
			}
			// The comment stands in the line, or over the first of its kind.
			asks := slices.Contains([]string{"NET_ADMIN", "SYS_ADMIN", "DAC_OVERRIDE", "NET_RAW"}, word[0]) ||
				strings.HasPrefix(line, "          privileged: true") || strings.HasPrefix(strings.TrimSpace(line), "hostNetwork: true")
			if asks && !strings.Contains(line, " # ") && !strings.HasPrefix(strings.TrimSpace(lines[i-1]), "#") {
				t.Errorf("%s:%d: why? %s", name, i+1, line)
			}
			if word[0] == "hostPath:" && !strings.Contains(lines[i-1], " # ") && strings.Contains(lines[i-1], "name: ") && !overlay(name) {
				t.Errorf("%s:%d: what is this directory for? %s", name, i+1, lines[i-1])
			}
		}
	}
}

// overlay reports whether a file changes only where the base's directories are.
func overlay(name string) bool {
	return filepath.Base(name) == "kustomization.yaml" && slices.Contains(distributions, filepath.Base(filepath.Dir(name)))
}
