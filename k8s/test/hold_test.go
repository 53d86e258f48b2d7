package test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	psa "k8s.io/pod-security-admission/api"

	"github.com/tproxy-cni/tproxy-cni/install/inject"
)

// TestHold: the sidecar with a holder is the sidecar, and its socket is in a volume that
// both mount. The holder runs as the same user, is native, and comes behind it: so it ends
// first.
func TestHold(t *testing.T) {
	objects := decode(t, kustomize(t, "hold"))
	ns, pod := only[*corev1.Namespace](t, objects), only[*appsv1.Deployment](t, objects).Spec.Template
	if why := refused(t, psa.LevelRestricted, pod); why != "" || ns.Labels[psa.EnforceLevelLabel] != string(psa.LevelRestricted) {
		t.Errorf("restricted refuses the pod, or the namespace does not enforce it: %s", why)
	}
	checkAnnotations(t, pod.Annotations)
	if len(pod.Spec.InitContainers) != 2 {
		t.Fatalf("%d init containers", len(pod.Spec.InitContainers))
	}
	sidecar, holder := pod.Spec.InitContainers[0], pod.Spec.InitContainers[1]
	flag := sidecar.Args[len(sidecar.Args)-1]
	if !strings.HasPrefix(flag, "--hold=unix:"+sidecar.VolumeMounts[0].MountPath+"/") || !slices.Contains(holder.Args, flag) || holder.Args[0] != "hold" {
		t.Errorf("the sidecar's socket is %s, the holder's arguments are %v", flag, holder.Args)
	}
	if diff := cmp.Diff(sidecar.VolumeMounts, holder.VolumeMounts); diff != "" || pod.Spec.Volumes[0].EmptyDir == nil {
		t.Errorf("mounts (-sidecar +holder):\n%s", diff)
	}
	if diff := cmp.Diff(sidecar.SecurityContext, holder.SecurityContext); diff != "" {
		t.Errorf("security (-sidecar +holder):\n%s", diff)
	}
	if r := holder.RestartPolicy; r == nil || *r != corev1.ContainerRestartPolicyAlways || !slices.Equal(holder.Command, []string{"/tproxy-proxy"}) {
		t.Errorf("the holder is %+v", holder)
	}
	sidecar.Args, sidecar.VolumeMounts = sidecar.Args[:len(sidecar.Args)-1], nil
	if diff := cmp.Diff(injected(t, "nat"), sidecar); diff != "" {
		t.Errorf("sidecar (-inject +manifest):\n%s", diff)
	}
}

// TestInjectHold: inject and the chart's admission policy add both, and the policy lets
// the holder run as the sidecar's user.
func TestInjectHold(t *testing.T) {
	file := read(t, root+"hold/sidecar.yaml")
	const image = "example.org/tproxy-cni:v1"
	objects := decode(t, mustTemplate(t, map[string]any{"inject": true, "injectSidecar": string(file), "image": image}))
	mutating, validating := only[*admissionv1.MutatingAdmissionPolicy](t, objects), only[*admissionv1.ValidatingAdmissionPolicy](t, objects)
	const text = podHead + "\nmetadata: {name: web, labels: {tproxy-cni.io/inject: nat}}\nspec: {containers: [{name: web, image: web}]}\n"
	var out bytes.Buffer
	if err := inject.Inject(strings.NewReader(text), &out, inject.Options{Sidecar: file, Image: image}); err != nil {
		t.Fatal(err)
	}
	want := only[*corev1.Pod](t, decode(t, out.Bytes()))
	if n := len(want.Spec.InitContainers); n != 2 || want.Spec.InitContainers[1].Image != image {
		t.Errorf("inject added %+v", want.Spec.InitContainers)
	}
	got := mutate(t, mutating, only[*corev1.Pod](t, decode(t, []byte(text))))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pod (-inject +policy):\n%s", diff)
	}
	if why := validate(t, validating, got); len(why) > 0 {
		t.Errorf("refused: %q", why)
	}
}
