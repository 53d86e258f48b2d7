package inject

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestTypedLists: a PodList, a DeploymentList and so on are Lists for kubectl, which gives
// an item without kind and apiVersion those of the list.
func TestTypedLists(t *testing.T) {
	const template = "template: {spec: {containers: [{name: a}]}}"
	for name, c := range map[string]struct {
		in       string
		sidecars int
	}{
		"pods":              {"apiVersion: v1\nkind: PodList\nitems:\n- metadata:\n    name: web\n  spec:\n    containers:\n    - name: a\n- {apiVersion: v1, kind: Pod, spec: {containers: [{name: b}]}}\n", 2},
		"JSON":              {`{"apiVersion":"v1","kind":"PodList","items":[{"metadata":{"name":"web"},"spec":{"containers":[{"name":"a"}]}}]}`, 1},
		"deployments":       {"apiVersion: apps/v1\nkind: DeploymentList\nitems:\n- spec: {" + template + "}\n", 1},
		"cron jobs":         {"apiVersion: batch/v1\nkind: CronJobList\nitems:\n- spec: {jobTemplate: {spec: {" + template + "}}}\n", 1},
		"in a List":         {"apiVersion: v1\nkind: List\nitems:\n- apiVersion: apps/v1\n  kind: DeploymentList\n  items:\n  - spec: {" + template + "}\n", 1},
		"another kind's":    {"apiVersion: v1\nkind: ConfigMapList\nitems:\n- {data: {a: b}}\n- {apiVersion: v1, kind: Pod, spec: {containers: [{name: b}]}}\n", 1},
		"none":              {"apiVersion: v1\nkind: PodList\nitems: []\n", 0},
		"half a kind":       {"apiVersion: v1\nkind: PodList\nitems:\n- {apiVersion: v1, spec: {containers: [{name: b}]}}\n", 0}, // kubectl refuses it
		"of unknown things": {"apiVersion: argoproj.io/v1alpha1\nkind: RolloutList\nitems:\n- metadata: {name: web}\n  spec: {" + template + "}\n", 0},
	} {
		var notes bytes.Buffer
		got := inject(t, c.in, Options{Notes: &notes})
		if n := strings.Count(got, "tproxy-cni.io/mode"); n != c.sidecars {
			t.Errorf("%s: %d sidecars, want %d:\n%s", name, n, c.sidecars, got)
		}
		if again := inject(t, got, Options{}); again != got {
			t.Errorf("%s: a second time changes:\n%s", name, cmp.Diff(got, again))
		}
		if diff := cmp.Diff(c.in, uninject(t, got, Options{})); diff != "" {
			t.Errorf("%s, taken back (-want +got):\n%s", name, diff)
		}
		if name == "of unknown things" && !strings.Contains(notes.String(), "Rollout web: argoproj.io/v1alpha1 is no kind that is known here") {
			t.Error(notes.String())
		}
	}
}
