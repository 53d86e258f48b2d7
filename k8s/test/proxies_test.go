package test

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	psa "k8s.io/pod-security-admission/api"

	"github.com/tproxy-cni/tproxy-cni/install/inject"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestProxies: each recipe for another proxy is complete, passes restricted, checks the
// pod before the proxy starts, and mounts its configuration where the command reads it.
func TestProxies(t *testing.T) {
	dirs, err := filepath.Glob(root + "proxies/*/kustomization.yaml")
	if err != nil || len(dirs) < 2 {
		t.Fatal(dirs, err)
	}
	readme := string(read(t, root+"proxies/README.md"))
	for _, d := range dirs {
		name := filepath.Base(filepath.Dir(d))
		if name == "base" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(readme, "["+name+"]("+name+")") {
				t.Error("README.md does not name it")
			}
			objects := decode(t, kustomize(t, "proxies/"+name))
			ns := only[*corev1.Namespace](t, objects)
			deployment := only[*appsv1.Deployment](t, objects)
			if got := ns.Labels[psa.EnforceLevelLabel]; got != string(psa.LevelRestricted) || ns.Name != deployment.Namespace {
				t.Errorf("namespace %s enforces %q, the pod is in %s", ns.Name, got, deployment.Namespace)
			}
			pod := deployment.Spec.Template
			if why := refused(t, psa.LevelRestricted, pod); why != "" {
				t.Errorf("restricted refuses the pod: %s", why)
			}
			checkAnnotations(t, pod.Annotations)
			containers := pod.Spec.InitContainers
			// Our sidecar as the helper checks by itself.
			first := containers[0]
			helper := first.StartupProbe != nil && first.StartupProbe.HTTPGet.Path == "/readyz"
			if len(containers) != 2 || !helper && !slices.Equal(first.Command, []string{"/tproxy-proxy", "check", "--mode=nat"}) {
				t.Fatalf("no check before the proxy: %d init containers", len(containers))
			}
			for _, c := range containers {
				if *c.SecurityContext.RunAsUser != contract.ProxyUID {
					t.Errorf("%s runs as uid %d", c.Name, *c.SecurityContext.RunAsUser)
				}
			}
			// inject adds the same.
			var plain bytes.Buffer
			sidecar := inject.Sidecar(read(t, root+"proxies/"+name+"/sidecar.yaml"))
			if err := inject.Inject(bytes.NewReader(read(t, root+"proxies/base/echo.yaml")), &plain, inject.Options{Sidecar: sidecar}); err != nil {
				t.Fatal(err)
			}
			injected := only[*appsv1.Deployment](t, decode(t, plain.Bytes())).Spec.Template.Spec
			if diff := cmp.Diff(containers, injected.InitContainers); diff != "" {
				t.Errorf("init containers (-kustomize +inject):\n%s", diff)
			}

			config := only[*corev1.ConfigMap](t, objects)
			proxy := containers[len(containers)-1]
			file := strings.TrimPrefix(proxy.Command[len(proxy.Command)-1], "--config=")
			if filepath.Dir(file) != mountOf(pod.Spec, proxy, config.Name) || config.Data[filepath.Base(file)] == "" {
				t.Errorf("the proxy reads %s, which is not mounted", file)
			}
			if text, err := os.ReadFile(root + "proxies/" + name + "/" + filepath.Base(file)); err != nil || string(text) != config.Data[filepath.Base(file)] {
				t.Errorf("the mounted configuration is not the directory's: %v", err)
			}
		})
	}
}

// mountOf is where a container has a ConfigMap.
func mountOf(pod corev1.PodSpec, c corev1.Container, config string) string {
	for _, v := range pod.Volumes {
		for _, m := range c.VolumeMounts {
			if v.ConfigMap != nil && v.ConfigMap.Name == config && m.Name == v.Name {
				return m.MountPath
			}
		}
	}
	return ""
}

// TestInjectAnother: the chart's admission policy adds another proxy as package inject
// does, whatever the pod chose, and leaves a pod as it is that has this proxy or our
// sidecar.
func TestInjectAnother(t *testing.T) {
	file := read(t, root+"proxies/haproxy-http/sidecar.yaml")
	const image = "example.org/tproxy-cni:v1"
	objects := decode(t, mustTemplate(t, map[string]any{"inject": true, "injectSidecar": string(file), "image": image}))
	var mutating *admissionv1.MutatingAdmissionPolicy
	var validating *admissionv1.ValidatingAdmissionPolicy
	for _, o := range objects {
		switch o := o.(type) {
		case *admissionv1.MutatingAdmissionPolicy:
			mutating = o
		case *admissionv1.ValidatingAdmissionPolicy:
			validating = o
		}
	}
	all := maps.Clone(pods) // one that has our sidecar keeps that
	all["has another"] = `
metadata: {name: web, labels: {tproxy-cni.io/inject: nat}, annotations: {tproxy-cni.io/mode: nat}}
spec: {initContainers: [{name: proxy, image: mine, restartPolicy: Always, securityContext: {runAsUser: 7089}}], containers: [{name: web, image: web}]}`
	for name, text := range all {
		t.Run(name, func(t *testing.T) {
			in := only[*corev1.Pod](t, decode(t, []byte(podHead+text)))
			got, want := mutate(t, mutating, in), in
			if !hasIt(name) {
				var out bytes.Buffer
				if err := inject.Inject(strings.NewReader(podHead+text), &out, inject.Options{Sidecar: file, Image: image}); err != nil {
					t.Fatal(err)
				}
				want = only[*corev1.Pod](t, decode(t, out.Bytes()))
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("pod (-inject +policy):\n%s", diff)
			}
			if diff := cmp.Diff(got, mutate(t, mutating, got)); diff != "" {
				t.Errorf("a second time changes (-once +twice):\n%s", diff)
			}
			if why := validate(t, validating, got); len(why) > 0 {
				t.Errorf("refused: %q", why)
			}
		})
	}
}

// TestInjectAnotherRefuses: a pod's own container of the other proxy's name is not taken for
// the sidecar, and does not get its user.
func TestInjectAnotherRefuses(t *testing.T) {
	objects := decode(t, mustTemplate(t, map[string]any{"inject": true, "injectSidecar": string(read(t, root+"proxies/haproxy-http/sidecar.yaml"))}))
	mutating, validating := only[*admissionv1.MutatingAdmissionPolicy](t, objects), only[*admissionv1.ValidatingAdmissionPolicy](t, objects)
	const none, user = "the label tproxy-cni.io/inject asks for the sidecar, and the pod has none", "a container runs as 7089, the sidecar's user"
	for spec, want := range map[string][]string{
		"containers: [{name: web}], initContainers: [{name: proxy, restartPolicy: Always}]":                   {none},
		"containers: [{name: web}, {name: proxy}]":                                                            {none},
		"containers: [{name: web}, {name: proxy, securityContext: {runAsUser: 7089}}]":                        {user, none},
		"containers: [{name: web}, {name: prepared, securityContext: {runAsUser: 7089}}]":                     {user, none},
		"containers: [{name: web}, {name: tproxy-proxy}]":                                                     {none},
		"containers: [{name: web}], initContainers: [{name: helper, securityContext: {runAsUser: 7089}}]":     {user, none},
		"securityContext: {runAsUser: 7089}, containers: [{name: proxy}], initContainers: [{name: prepared}]": {user, none},
	} {
		text := podHead + "\nmetadata: {name: web, labels: {tproxy-cni.io/inject: nat}, annotations: {tproxy-cni.io/mode: nat}}\nspec: {" + spec + "}\n"
		in := only[*corev1.Pod](t, decode(t, []byte(text)))
		got := in // what the mutating policy does with a pod without the name is not at issue
		if strings.Contains(spec, "proxy") {
			got = mutate(t, mutating, in)
		}
		if diff := cmp.Diff(in, got); diff != "" {
			t.Errorf("%s: mutated:\n%s", spec, diff)
		}
		why := validate(t, validating, got)
		if !slices.EqualFunc(why, want, strings.HasPrefix) {
			t.Errorf("%s: refused with %q, want %q", spec, why, want)
		}
	}
}
