package test

import (
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// classic is the schema that every Grafana loads; the newer one is for its API.
//
//lint:ignore SA1019 as said
type classic = dashboard.Dashboard

// TestDashboard: Grafana's own types take it strictly, its panels are complete, and
// its expressions ask for what there is.
func TestDashboard(t *testing.T) {
	text := read(t, root+"chart/monitoring/dashboard.json")
	plugins.RegisterDefaultPlugins()
	// It returns a list of faults also if there are none, and leaves the panels out.
	var faults cog.BuildErrors
	if err := new(classic).UnmarshalJSONStrict(text); !errors.As(err, &faults) || len(faults) > 0 {
		t.Error(err)
	}
	var d classic
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	if err := d.Validate(); err != nil {
		t.Fatal(err)
	}
	all := exposed(t)
	const source = "${datasource}"
	var rows []string
	ids := map[uint32]string{}
	for _, one := range d.Panels {
		if one.RowPanel != nil {
			rows = append(rows, *one.RowPanel.Title)
			checkID(t, ids, one.RowPanel.Id, *one.RowPanel.Title)
			continue
		}
		p := one.Panel
		if p.Title == nil || p.Description == nil || *p.Title == "" || *p.Description == "" {
			t.Errorf("panel %d has no title or no description", *p.Id)
			continue
		}
		title := *p.Title
		checkID(t, ids, *p.Id, title)
		if p.FieldConfig == nil || p.FieldConfig.Defaults.Unit == nil {
			t.Errorf("%s: no unit", title)
		}
		if p.Datasource == nil || *p.Datasource.Uid != source || len(p.Targets) == 0 {
			t.Errorf("%s: its data source is not the variable, or it has no expression", title)
		}
		if g := p.GridPos; g == nil || g.X+g.W > 24 {
			t.Errorf("%s: no place, or beyond the right edge", title)
		}
		for _, target := range targets(t, p.Targets) {
			known := checkExpr(t, all, "panel "+title, target.Expr)
			for _, m := range regexp.MustCompile(`{{(\w+)}}`).FindAllStringSubmatch(target.LegendFormat, -1) {
				if !slices.Contains(known, m[1]) {
					t.Errorf("%s: its legend names the label %s, which %s does not have", title, m[1], target.Expr)
				}
			}
			if target.Datasource.UID != source {
				t.Errorf("%s: the data source of %s is not the variable", title, target.Expr)
			}
		}
	}
	if diff := cmp.Diff([]string{"Traffic", "Endings", "Resources", "Readiness"}, rows); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	for _, v := range d.Templating.List {
		if m := regexp.MustCompile(`^label_values\((.*), (\w+)\)$`).FindStringSubmatch(variableQuery(v)); m != nil {
			if known := checkExpr(t, all, "variable "+v.Name, m[1]); !slices.Contains(known, m[2]) {
				t.Errorf("variable %s: no label %s", v.Name, m[2])
			}
		} else if v.Type != "datasource" {
			t.Errorf("variable %s is of type %s, and %q is not label_values", v.Name, v.Type, variableQuery(v))
		}
	}
}

func checkID(t *testing.T, ids map[uint32]string, id uint32, title string) {
	t.Helper()
	if other, twice := ids[id]; twice {
		t.Errorf("%s and %s are both panel %d", other, title, id)
	}
	ids[id] = title
}

func variableQuery(v dashboard.VariableModel) string {
	if v.Definition == nil {
		return ""
	}
	return *v.Definition
}

// target is an expression of a panel.
type target struct {
	Expr, LegendFormat string
	Datasource         struct{ UID string }
}

func targets(t *testing.T, of any) (all []target) {
	t.Helper()
	text, err := json.Marshal(of)
	if err == nil {
		err = json.Unmarshal(text, &all)
	}
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestMonitors: what the PodMonitors select are the pods and ports that there are.
func TestMonitors(t *testing.T) {
	sidecar := injected(t, contract.ModeNAT).Ports[0].Name
	installer := only[*appsv1.DaemonSet](t, decode(t, kustomize(t, "install/kind")))
	for _, o := range decode(t, read(t, root+"chart/monitoring/podmonitors.yaml")) {
		m := o.(*monitoringv1.PodMonitor)
		port := *m.Spec.PodMetricsEndpoints[0].Port
		switch m.Name {
		case "tproxy-proxy":
			if port != sidecar || !m.Spec.NamespaceSelector.Any || len(m.Spec.Selector.MatchLabels) > 0 {
				t.Errorf("does not select port %s of every pod: %+v", sidecar, m.Spec)
			}
		case "tproxy-install":
			template := installer.Spec.Template
			selects := labels.SelectorFromSet(m.Spec.Selector.MatchLabels).Matches(labels.Set(template.Labels))
			if port != template.Spec.Containers[0].Ports[0].Name || m.Namespace != installer.Namespace || !selects {
				t.Errorf("does not select the installer: %+v", m.Spec)
			}
		default:
			t.Errorf("PodMonitor %s", m.Name)
		}
	}
}

// TestMonitoringChart: with its values on, the chart has the objects of
// chart/monitoring, and with one on that one.
func TestMonitoringChart(t *testing.T) {
	bare := byName(t, decode(t, mustTemplate(t, nil)))
	objects := func(values map[string]any) map[string]any {
		more := byName(t, decode(t, mustTemplate(t, map[string]any{"monitoring": values})))
		for name := range bare {
			delete(more, name)
		}
		return more
	}
	want := byName(t, decode(t, kustomize(t, "chart/monitoring")))
	if diff := cmp.Diff(want, objects(map[string]any{"podMonitors": true, "rules": true, "dashboard": true})); diff != "" {
		t.Errorf("objects (-chart/monitoring +chart):\n%s", diff)
	}
	for value, kind := range map[string]string{"podMonitors": "PodMonitor", "rules": "PrometheusRule", "dashboard": "ConfigMap"} {
		got := objects(map[string]any{value: true, "labels": map[string]any{"release": "prometheus"}})
		for name, o := range got {
			labelled := o.(map[string]any)["metadata"].(map[string]any)["labels"].(map[string]any)["release"] == "prometheus"
			if !strings.HasPrefix(name, kind+"/") || labelled == (kind == "ConfigMap") {
				t.Errorf("%s: %s, labelled %t", value, name, labelled)
			}
		}
		if len(got) == 0 {
			t.Errorf("%s: no object", value)
		}
	}
	if _, err := template(map[string]any{"monitoring": map[string]any{"serviceMonitor": true}}); err == nil {
		t.Error("an unknown value is accepted")
	}
}
