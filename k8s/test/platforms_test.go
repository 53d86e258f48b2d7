package test

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	securityv1 "github.com/openshift/api/security/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// platform is a row of the table in docs/PLATFORMS.md.
type platform struct {
	name, overlay, conf, bin, socket, cniVersion, state string
}

// platforms are the rows, in the page's order.
func platforms(t *testing.T) (all []platform) {
	t.Helper()
	for line := range strings.Lines(string(read(t, root+"../docs/PLATFORMS.md"))) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 7 {
			continue
		}
		for i := range cells {
			cells[i] = strings.Trim(strings.TrimSpace(cells[i]), "`")
		}
		if cells[0] == "platform" || strings.HasPrefix(cells[0], "---") {
			continue
		}
		all = append(all, platform{cells[0], cells[1], cells[2], cells[3], cells[4], cells[5], cells[6]})
	}
	if len(all) < 15 {
		t.Fatalf("only %d platforms", len(all))
	}
	return all
}

// overlays are those platforms for which there is one.
func overlays(t *testing.T) (all []platform) {
	t.Helper()
	for _, p := range platforms(t) {
		if p.overlay != "–" {
			all = append(all, p)
		}
	}
	return all
}

// TestPlatforms: the page has a row for each overlay and an overlay for each row, with the
// directories and the socket of the manifests, and claims no more than is run.
func TestPlatforms(t *testing.T) {
	makefile := string(read(t, root+"../Makefile"))
	run := strings.Fields(regexp.MustCompile(`(?m)^DISTROS \?= (.*)$`).FindStringSubmatch(makefile)[1])
	var names []string
	for _, p := range overlays(t) {
		names = append(names, p.overlay)
		if want := map[bool]string{true: "run", false: "built and validated"}[slices.Contains(run, p.overlay)]; p.state != want {
			t.Errorf("%s is said to be %s, want %s: make e2e runs %q", p.name, p.state, want, run)
		}
		ds := only[*appsv1.DaemonSet](t, decode(t, kustomize(t, "repair/"+p.overlay)))
		pod := ds.Spec.Template.Spec
		dir := func(flag string) string { return nodeDir(t, pod, pod.Containers[0], flag) }
		if conf, bin, socket := dir("--cni-conf-dir="), dir("--cni-bin-dir="), dir("--cri-socket="); conf != p.conf || bin != p.bin || socket != p.socket {
			t.Errorf("%s: the page says %s, %s and %s, the manifests %s, %s and %s", p.name, p.conf, p.bin, p.socket, conf, bin, socket)
		}
	}
	for _, p := range platforms(t) {
		if p.overlay == "–" && !strings.HasPrefix(p.state, "not possible, because ") {
			t.Errorf("%s: %s: no overlay, and no reason", p.name, p.state)
		}
	}
	slices.Sort(names)
	if sorted := slices.Sorted(slices.Values(distributions)); !slices.Equal(names, sorted) {
		t.Errorf("the page has %q, the tests %q", names, sorted)
	}
	for _, action := range actions {
		dirs, err := filepath.Glob(root + action + "/*/kustomization.yaml")
		if err != nil {
			t.Fatal(err)
		}
		var have []string
		for _, d := range dirs {
			if name := filepath.Base(filepath.Dir(d)); name != "base" && name != "component" {
				have = append(have, name)
			}
		}
		if !slices.Equal(names, have) {
			t.Errorf("the page has %q, k8s/%s has %q", names, action, have)
		}
	}
	text := string(read(t, root+"../docs/PLATFORMS.md"))
	for _, name := range names {
		if !strings.Contains(text, "\n| `"+name+"` | ") {
			t.Errorf("the page does not say which kernel %s has and how images get there", name)
		}
	}
	for _, page := range []string{"../README.md", "README.md"} {
		if !strings.Contains(string(read(t, root+page)), "docs/PLATFORMS.md)") {
			t.Errorf("%s does not link to the page", page)
		}
	}
}

// nodes by what they are; the installer belongs on those that are true. The labels are
// those that the platforms set.
var nodes = map[string]struct {
	labels map[string]string
	want   bool
}{
	"a Linux node":         {map[string]string{}, true},
	"of EKS":               {map[string]string{"eks.amazonaws.com/nodegroup": "a"}, true},
	"of EKS, Auto Mode":    {map[string]string{"eks.amazonaws.com/compute-type": "auto"}, true},
	"of EKS, hybrid":       {map[string]string{"eks.amazonaws.com/compute-type": "hybrid"}, true},
	"of AKS":               {map[string]string{"kubernetes.azure.com/mode": "system", "type": "user"}, true},
	"of Fargate":           {map[string]string{"eks.amazonaws.com/compute-type": "fargate"}, false},
	"virtual, of AKS":      {map[string]string{"type": "virtual-kubelet", "kubernetes.io/role": "agent"}, false},
	"virtual, of Liqo":     {map[string]string{"liqo.io/type": "virtual-node"}, false},
	"Windows":              {map[string]string{"kubernetes.io/os": "windows"}, false},
	"with the user's disk": {map[string]string{"disk": "ssd"}, true},
}

// TestNodes: the DaemonSet's controller puts the installer where it can run, and nowhere
// else, also with an affinity of the user's own.
func TestNodes(t *testing.T) {
	check := func(t *testing.T, text []byte, wanted func(labels map[string]string) bool) {
		t.Helper()
		pod := &corev1.Pod{Spec: only[*appsv1.DaemonSet](t, decode(t, text)).Spec.Template.Spec}
		for name, n := range nodes {
			labels := map[string]string{"kubernetes.io/os": "linux"}
			for k, v := range n.labels {
				labels[k] = v
			}
			got, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: labels}})
			if want := n.want && wanted(labels); err != nil || got != want {
				t.Errorf("node %s: %t, want %t (%v)", name, got, want, err)
			}
		}
	}
	every := func(map[string]string) bool { return true }
	for _, action := range actions {
		check(t, kustomize(t, action+"/eks"), every)
	}
	check(t, mustTemplate(t, nil), every)
	expression := func(key, value string) map[string]any {
		return map[string]any{"matchExpressions": []any{map[string]any{"key": key, "operator": "In", "values": []any{value}}}}
	}
	check(t, mustTemplate(t, map[string]any{"affinity": map[string]any{"nodeAffinity": map[string]any{
		"requiredDuringSchedulingIgnoredDuringExecution": map[string]any{"nodeSelectorTerms": []any{
			expression("disk", "ssd"), expression("type", "virtual-kubelet"), expression("liqo.io/type", "virtual-node"),
		}},
	}}}), func(l map[string]string) bool { return l["disk"] == "ssd" })
	check(t, mustTemplate(t, map[string]any{"nodeSelector": map[string]any{"disk": "ssd"}}), func(l map[string]string) bool { return l["disk"] == "ssd" })
}

// TestOpenShift: the constraints admit what the installer's pod asks for and no more, for
// its service account alone, and the namespace's pods go to every node.
func TestOpenShift(t *testing.T) {
	for _, action := range actions {
		objects := decode(t, kustomize(t, action+"/openshift"))
		ds := only[*appsv1.DaemonSet](t, objects)
		pod, repair := ds.Spec.Template.Spec, action == "repair"
		c := pod.Containers[0].SecurityContext
		want := &securityv1.SecurityContextConstraints{
			AllowHostDirVolumePlugin: true, AllowHostNetwork: pod.HostNetwork, AllowHostPorts: len(pod.Containers[0].Ports) > 0,
			AllowHostPID: pod.HostPID, AllowHostIPC: pod.HostIPC, AllowPrivilegedContainer: *c.Privileged,
			AllowPrivilegeEscalation: c.AllowPrivilegeEscalation, ReadOnlyRootFilesystem: *c.ReadOnlyRootFilesystem,
			AllowedCapabilities:      []corev1.Capability{"DAC_OVERRIDE", "SYS_ADMIN", "NET_ADMIN"},
			RequiredDropCapabilities: []corev1.Capability{}, DefaultAddCapabilities: []corev1.Capability{},
			RunAsUser:          securityv1.RunAsUserStrategyOptions{Type: securityv1.RunAsUserStrategyMustRunAs, UID: c.RunAsUser},
			SELinuxContext:     securityv1.SELinuxContextStrategyOptions{Type: securityv1.SELinuxStrategyRunAsAny}, // spc_t
			FSGroup:            securityv1.FSGroupStrategyOptions{Type: securityv1.FSGroupStrategyRunAsAny},
			SupplementalGroups: securityv1.SupplementalGroupsStrategyOptions{Type: securityv1.SupplementalGroupsStrategyRunAsAny},
			SeccompProfiles:    []string{"runtime/default"},
			Volumes:            []securityv1.FSType{securityv1.FSTypeHostPath},
			Users:              []string{"system:serviceaccount:" + ds.Namespace + ":" + pod.ServiceAccountName},
			Groups:             []string{},
		}
		if repair {
			want.SeccompProfiles = []string{"*"} // a privileged container has none
		} else {
			no := false
			want.DefaultAllowPrivilegeEscalation = &no
			if extra := slices.DeleteFunc(slices.Clone(c.Capabilities.Add), func(c corev1.Capability) bool { return slices.Contains(want.AllowedCapabilities, c) }); len(extra) > 0 {
				t.Errorf("%s: the pod asks for %q", action, extra)
			}
		}
		scc := only[*securityv1.SecurityContextConstraints](t, objects)
		want.TypeMeta, want.ObjectMeta = scc.TypeMeta, scc.ObjectMeta
		if diff := cmp.Diff(want, scc); diff != "" {
			t.Errorf("%s: constraints (-as the pod +as they are):\n%s", action, diff)
		}
		if selector, ok := only[*corev1.Namespace](t, objects).Annotations["openshift.io/node-selector"]; !ok || selector != "" {
			t.Errorf("%s: openshift.io/node-selector is %q, %t", action, selector, ok)
		}
	}
}
