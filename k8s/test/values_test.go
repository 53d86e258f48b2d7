package test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// TestChartFields: each of the values that are handed on comes out in its field, as it is.
func TestChartFields(t *testing.T) {
	type values = map[string]any
	pod := func(d *appsv1.DaemonSet) corev1.PodSpec { return d.Spec.Template.Spec }
	installer := func(d *appsv1.DaemonSet) corev1.Container { return pod(d).Containers[0] }
	arg := func(name string) func(d *appsv1.DaemonSet) any {
		return func(d *appsv1.DaemonSet) any {
			for _, a := range installer(d).Args {
				if value, ok := strings.CutPrefix(a, "--"+name+"="); ok {
					return value
				}
			}
			return nil
		}
	}
	path := func(volume string) func(d *appsv1.DaemonSet) any {
		return func(d *appsv1.DaemonSet) any {
			for _, v := range pod(d).Volumes {
				if v.Name == volume {
					return v.HostPath.Path
				}
			}
			return nil
		}
	}
	const odd = "a: b #c 'd' \"e\"" // for YAML something else, if it is not quoted
	one := intstr.FromString("10%")
	for name, tt := range map[string]struct {
		values values
		get    func(*appsv1.DaemonSet) any
		want   any
	}{
		"digest":                 {values{"image": "example.org/a@sha256:01"}, func(d *appsv1.DaemonSet) any { return installer(d).Image }, "example.org/a@sha256:01"},
		"tag and digest":         {values{"image": "example.org/a:v1@sha256:01"}, func(d *appsv1.DaemonSet) any { return installer(d).Image }, "example.org/a:v1@sha256:01"},
		"imagePullPolicy":        {values{"imagePullPolicy": "Always"}, func(d *appsv1.DaemonSet) any { return installer(d).ImagePullPolicy }, corev1.PullAlways},
		"priorityClassName":      {values{"priorityClassName": "mine"}, func(d *appsv1.DaemonSet) any { return pod(d).PriorityClassName }, "mine"},
		"priorityClassName, odd": {values{"priorityClassName": odd}, func(d *appsv1.DaemonSet) any { return pod(d).PriorityClassName }, odd},
		"priorityClassName, on":  {values{"priorityClassName": "on"}, func(d *appsv1.DaemonSet) any { return pod(d).PriorityClassName }, "on"},
		"priorityClassName, gke": {values{"priorityClassName": "system-a: b", "distribution": "gke"}, func(d *appsv1.DaemonSet) any { return pod(d).PriorityClassName }, "system-a: b"},
		"tolerations": {
			values{"tolerations": []any{values{"key": "a", "operator": "Exists", "effect": "NoSchedule"}}},
			func(d *appsv1.DaemonSet) any { return pod(d).Tolerations },
			[]corev1.Toleration{{Key: "a", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}},
		},
		"no tolerations": {values{"tolerations": []any{}}, func(d *appsv1.DaemonSet) any { return pod(d).Tolerations }, []corev1.Toleration(nil)},
		"nodeSelector": {
			values{"nodeSelector": values{"a": "on"}},
			func(d *appsv1.DaemonSet) any { return pod(d).NodeSelector },
			map[string]string{"a": "on", "kubernetes.io/os": "linux"},
		},
		"updateStrategy": {
			values{"updateStrategy": values{"rollingUpdate": values{"maxUnavailable": "10%"}}},
			func(d *appsv1.DaemonSet) any { return d.Spec.UpdateStrategy },
			appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxUnavailable: &one}},
		},
		"updateStrategy, OnDelete": {
			values{"updateStrategy": values{"type": "OnDelete"}},
			func(d *appsv1.DaemonSet) any { return d.Spec.UpdateStrategy },
			appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType},
		},
		"podAnnotations": {
			values{"podAnnotations": values{"a": odd, "prometheus.io/scrape": "false"}},
			func(d *appsv1.DaemonSet) any { return d.Spec.Template.Annotations },
			map[string]string{"a": odd, "prometheus.io/scrape": "false", "prometheus.io/port": "17089"},
		},
		"podLabels": {
			values{"podLabels": values{"a": "1"}},
			func(d *appsv1.DaemonSet) any { return d.Spec.Template.Labels },
			map[string]string{"a": "1", "app.kubernetes.io/name": "tproxy-cni"},
		},
		"port":                   {values{"port": 18000}, arg("listen"), ":18000"},
		"port, of the container": {values{"port": 18000}, func(d *appsv1.DaemonSet) any { return installer(d).Ports[0].ContainerPort }, int32(18000)},
		"port, of Prometheus":    {values{"port": 18000}, func(d *appsv1.DaemonSet) any { return d.Spec.Template.Annotations["prometheus.io/port"] }, "18000"},
		"the port by default":    {values{}, arg("listen"), nil},
		"logLevel":               {values{"logLevel": "debug"}, arg("log-level"), "debug"},
		"logFormat":              {values{"logFormat": "json"}, arg("log-format"), "json"},
		"no logFormat":           {values{}, arg("log-format"), nil},
		"cniConfDir":             {values{"cniConfDir": "/" + odd}, path("cni-conf"), "/" + odd},
		"cniBinDir":              {values{"cniBinDir": "/" + odd}, path("cni-bin"), "/" + odd},
		"criSocketDir":           {values{"criSocketDir": "/" + odd, "repair": true}, path("cri"), "/" + odd},
		"criSocket":              {values{"criSocket": odd, "repair": true}, arg("cri-socket"), "/run/cri/" + odd},
	} {
		got := tt.get(only[*appsv1.DaemonSet](t, decode(t, mustTemplate(t, tt.values))))
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	quota := only[*corev1.ResourceQuota](t, decode(t, mustTemplate(t, values{"priorityClassName": "system-a: b", "distribution": "gke"})))
	if diff := cmp.Diff([]string{"system-a: b"}, quota.Spec.ScopeSelector.MatchExpressions[0].Values); diff != "" {
		t.Errorf("the quota's class (-want +got):\n%s", diff)
	}
}
