package test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// imagesOf are those of the sidecar, as the admission policy adds it, and of the installer.
func imagesOf(t *testing.T, objects []runtime.Object) (all []string) {
	t.Helper()
	pod := only[*corev1.Pod](t, decode(t, []byte(podHead+pods["nat"])))
	out := mutateWith(t, only[*admissionv1.MutatingAdmissionPolicy](t, objects), only[*corev1.PodTemplate](t, objects), pod)
	all = append(all, out.Spec.InitContainers[0].Image)
	return append(all, only[*appsv1.DaemonSet](t, objects).Spec.Template.Spec.Containers[0].Image)
}

// TestKustomizeImages: kustomize's `images:` reaches the installer and the sidecar that the
// admission policy adds, whatever part of the name it changes, also in another's overlay.
func TestKustomizeImages(t *testing.T) {
	base, err := filepath.Abs(root + "install/kind")
	if err != nil {
		t.Fatal(err)
	}
	for images, want := range map[string]string{
		"{name: tproxy-cni, newName: example.org/tproxy-cni, newTag: v1}":    "example.org/tproxy-cni:v1",
		"{name: tproxy-cni, newTag: v1}":                                     "tproxy-cni:v1",
		"{name: tproxy-cni, newName: localhost:5000/a/b}":                    "localhost:5000/a/b:latest",
		"{name: tproxy-cni, digest: sha256:" + strings.Repeat("a", 64) + "}": "tproxy-cni@sha256:" + strings.Repeat("a", 64),
	} {
		dir := t.TempDir()
		write := func(name, text string) {
			t.Helper()
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		relative, err := filepath.Rel(filepath.Join(dir, "outer"), base)
		if err != nil {
			t.Fatal(err)
		}
		write("inner/inject.yaml", string(read(t, root+"inject.yaml")))
		write("inner/kustomization.yaml", "resources: [inject.yaml]\n")
		write("outer/kustomization.yaml", "resources: [../inner, "+relative+"]\nimages: ["+images+"]\n")
		m, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join(dir, "outer"))
		if err != nil {
			t.Fatal(err)
		}
		text, err := m.AsYaml()
		if err != nil {
			t.Fatal(err)
		}
		got := imagesOf(t, decode(t, text))
		if !slices.Equal(got, []string{want, want}) {
			t.Errorf("%s: sidecar and installer are %q, want %s", images, got, want)
		}
		if strings.Contains(string(text), "tproxy-cni:latest") {
			t.Errorf("%s: something still names tproxy-cni:latest", images)
		}
	}
}

// TestPolicyParameter: the policy finds its PodTemplate, and without it refuses.
func TestPolicyParameter(t *testing.T) {
	check := func(t *testing.T, objects []runtime.Object) {
		t.Helper()
		param := only[*corev1.PodTemplate](t, objects)
		kind := only[*admissionv1.MutatingAdmissionPolicy](t, objects).Spec.ParamKind
		ref := only[*admissionv1.MutatingAdmissionPolicyBinding](t, objects).Spec.ParamRef
		if kind == nil || kind.APIVersion != "v1" || kind.Kind != "PodTemplate" {
			t.Errorf("the policy's parameters are %v", kind)
		}
		if ref == nil || ref.Name != param.Name || ref.Namespace != param.Namespace || *ref.ParameterNotFoundAction != admissionv1.DenyAction {
			t.Errorf("the binding's parameter is %+v, the template %s/%s", ref, param.Namespace, param.Name)
		}
	}
	check(t, decode(t, read(t, root+"inject.yaml")))
	check(t, decode(t, mustTemplate(t, map[string]any{"inject": true})))
}
