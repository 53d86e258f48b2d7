package test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/tproxy-cni/tproxy-cni/internal/programs"
)

// TestArguments gives every container's arguments to the program that it runs:
// it knows each of them. With --help behind them it does no more.
func TestArguments(t *testing.T) {
	bin := t.TempDir()
	if err := programs.Build(t.Context(), root+"..", bin, "tproxy-proxy", "tproxy-install", "echo-server"); err != nil {
		t.Fatal(err)
	}
	var all []corev1.Container
	pod := func(p corev1.PodSpec) { all = append(append(all, p.InitContainers...), p.Containers...) }
	for _, d := range demos {
		pod(only[*appsv1.Deployment](t, decode(t, read(t, root+d.file))).Spec.Template.Spec)
	}
	for _, action := range actions {
		pod(only[*appsv1.DaemonSet](t, decode(t, kustomize(t, action+"/kind"))).Spec.Template.Spec)
	}
	// Every setting that the chart's schema admits.
	chart := mustTemplate(t, map[string]any{"preflight": false, "morePluginDirs": true, "settings": map[string]any{
		"mode": "nat", "proxy-port": 1, "proxy-uid": 1, "admin-port": 2, "include-inbound-ports": "80",
		"exclude-inbound-ports": "22", "exclude-source-cidrs": "192.0.2.0/24,2001:db8::/32",
	}})
	pod(only[*appsv1.DaemonSet](t, decode(t, chart)).Spec.Template.Spec)

	tried := map[string]bool{}
	for _, c := range all {
		program := map[string]string{"tproxy-proxy": "tproxy-proxy", "echo": "echo-server"}[c.Name]
		if len(c.Command) == 1 {
			program = strings.TrimPrefix(c.Command[0], "/")
		}
		line := fmt.Sprint(program, c.Args)
		if program == "" || tried[line] {
			continue
		}
		tried[line] = true
		lists := [][]string{c.Args}
		if p := c.StartupProbe; p != nil {
			if p.Exec.Command[0] != "/"+program {
				t.Errorf("%s: its startup probe is %q", line, p.Exec.Command)
			}
			lists = append(lists, p.Exec.Command[1:])
		}
		for _, args := range lists {
			if out, err := exec.Command(filepath.Join(bin, program), append(args, "--help")...).CombinedOutput(); err != nil {
				t.Errorf("%s %q: %v\n%s", program, args, err, out)
			}
		}
	}
	if len(tried) < 7 {
		t.Errorf("only %d programs tried: %v", len(tried), tried)
	}
}
