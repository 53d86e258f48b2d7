package test

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// template is `helm template --namespace tproxy-cni`.
func template(values map[string]any) (string, error) {
	c, err := loader.LoadDir(root + "chart")
	if err != nil {
		return "", err
	}
	release := common.ReleaseOptions{Name: "tproxy-cni", Namespace: "tproxy-cni", IsInstall: true}
	render, err := util.ToRenderValues(c, values, release, common.DefaultCapabilities)
	if err != nil {
		return "", err
	}
	parts, err := engine.Render(c, render)
	if err != nil {
		return "", err
	}
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(parts)) {
		if strings.HasSuffix(name, ".yaml") && strings.TrimSpace(parts[name]) != "" {
			text.WriteString("---\n" + parts[name] + "\n")
		}
	}
	return text.String(), nil
}

func mustTemplate(t *testing.T, values map[string]any) []byte {
	t.Helper()
	text, err := template(values)
	if err != nil {
		t.Fatal(err)
	}
	return []byte(text)
}

// byName are objects by kind and name, comparable. The namespace is helm's own
// (--create-namespace), and the order of volumes means nothing.
func byName(t *testing.T, objects []runtime.Object) map[string]any {
	t.Helper()
	all := map[string]any{}
	for _, o := range objects {
		if _, ok := o.(*corev1.Namespace); ok {
			continue
		}
		b, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		sortNamed(m)
		name := m["kind"].(string) + "/" + m["metadata"].(map[string]any)["name"].(string)
		if _, twice := all[name]; twice {
			t.Errorf("%s is there twice", name)
		}
		all[name] = m
	}
	return all
}

// sortNamed orders volumes and their mounts.
func sortNamed(m map[string]any) {
	for key, v := range m {
		switch v := v.(type) {
		case map[string]any:
			sortNamed(v)
		case []any:
			for _, e := range v {
				if e, ok := e.(map[string]any); ok {
					sortNamed(e)
				}
			}
			if key == "volumes" || key == "volumeMounts" {
				slices.SortFunc(v, func(a, b any) int {
					of := func(x any) string { b, _ := json.Marshal(x); return string(b) }
					return strings.Compare(of(a), of(b))
				})
			}
		}
	}
}

// TestChart: for every distribution and action the chart says what the
// kustomizations say.
func TestChart(t *testing.T) {
	for _, action := range actions {
		for _, d := range distributions {
			t.Run(action+"/"+d, func(t *testing.T) {
				chart := mustTemplate(t, map[string]any{
					"distribution": d, "repair": action == "repair", "uninstall": action == "uninstall",
				})
				want, got := byName(t, decode(t, kustomize(t, action+"/"+d))), byName(t, decode(t, chart))
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("objects (-kustomize +chart):\n%s", diff)
				}
			})
		}
	}
	t.Run("inject", func(t *testing.T) {
		want := byName(t, decode(t, append(kustomize(t, "install/kind"), append([]byte("---\n"), read(t, root+"inject.yaml")...)...)))
		got := byName(t, decode(t, mustTemplate(t, map[string]any{"distribution": "kind", "inject": true})))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("objects (-files +chart):\n%s", diff)
		}
	})
}

// TestChartValues: what has no counterpart in the kustomizations.
func TestChartValues(t *testing.T) {
	text := string(mustTemplate(t, map[string]any{
		"image": "example.org/tproxy-cni:v1", "inject": true, "repair": true, "repairEvery": "5s",
		"cniConfDir": "/conf", "cniBinDir": "/bin", "criSocketDir": "/run/crio", "criSocket": "crio.sock", "networkName": "ovn",
		"settings": map[string]any{"mode": "nat", "proxy-port": 15000, "exclude-inbound-ports": "22,80-90"},
	}))
	for want, times := range map[string]int{
		"example.org/tproxy-cni:v1": 2, `path: "/conf"`: 1, `path: "/bin"`: 1, `path: "/run/crio"`: 1,
		`"--cri-socket=/run/cri/crio.sock"`: 1, `"--repair-every=5s"`: 1, "name: TPROXY_NETWORK_NAME": 1, `value: "ovn"`: 1, `"--mode=nat"`: 1, `"--proxy-port=15000"`: 1, `"--exclude-inbound-ports=22,80-90"`: 1,
	} {
		if got := strings.Count(text, want); got != times {
			t.Errorf("%q is there %d times, want %d", want, got, times)
		}
	}
	for want, value := range map[string]any{`"--max-conf-num=0"`: 0, `"--max-conf-num=2"`: "2", `"--max-conf-num=1000000"`: 1e6} {
		if text := string(mustTemplate(t, map[string]any{"maxConfNum": value})); !strings.Contains(text, want) {
			t.Errorf("maxConfNum %v: %s is not there", value, want)
		}
	}
	for _, value := range []any{"", nil} {
		if text := string(mustTemplate(t, map[string]any{"maxConfNum": value})); strings.Contains(text, "max-conf-num") {
			t.Errorf("maxConfNum %v is not left out", value)
		}
	}
	least := only[*appsv1.DaemonSet](t, decode(t, mustTemplate(t, map[string]any{
		"preflight": false, "morePluginDirs": true, "imagePullSecrets": []any{map[string]any{"name": "registry"}},
	}))).Spec.Template.Spec
	if c := least.Containers[0]; !slices.Contains(c.Args, "--preflight=false") || !slices.Contains(c.Args, "--more-plugin-dirs") ||
		!slices.Equal(c.SecurityContext.Capabilities.Add, []corev1.Capability{"DAC_OVERRIDE"}) {
		t.Errorf("without preflight: %q, %q", c.Args, c.SecurityContext.Capabilities.Add)
	}
	if diff := cmp.Diff([]corev1.LocalObjectReference{{Name: "registry"}}, least.ImagePullSecrets); diff != "" {
		t.Errorf("imagePullSecrets (-want +got):\n%s", diff)
	}
	gone := only[*appsv1.DaemonSet](t, decode(t, mustTemplate(t, map[string]any{"uninstall": true, "removeBinary": true}))).Spec.Template.Spec
	if !slices.Contains(gone.Containers[0].Args, "--remove-binary") {
		t.Errorf("removeBinary: %q", gone.Containers[0].Args)
	}
	for name, values := range map[string]map[string]any{
		"unknown value":         {"imagE": "a"},
		"unknown distribution":  {"distribution": "nomad"},
		"unknown setting":       {"settings": map[string]any{"port": 1}},
		"bad port":              {"settings": map[string]any{"proxy-port": 65536}},
		"relative directory":    {"cniConfDir": "etc"},
		"bad number":            {"maxConfNum": "two"},
		"two actions":           {"repair": true, "uninstall": true},
		"remove, not uninstall": {"removeBinary": true},
	} {
		if _, err := template(values); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
