package main

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestScale creates many equal pods at once on one node: with the annotation, without
// it, and without the plugin. It prints how long the runtime waited for all of its CNI
// plugins, and what the installer used meanwhile; it only fails if pods do not start.
// SCALE is the number of pods; the default is small enough for two cores.
func TestScale(t *testing.T) {
	pods := 3
	if text := os.Getenv("SCALE"); text != "" {
		var err error
		if pods, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ name, annotation string }{
		{"nat", "tproxy-cni.io/mode: nat"},
		{"tproxy", "tproxy-cni.io/mode: tproxy"},
		{"not annotated", `test/scale: "1"`},
		{"without the plugin", `test/scale: "1"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "without the plugin" {
				uninstall(t)
			}
			ns := newNamespace(t)
			p := pod{name: "many", node: 2, annotations: []string{c.annotation}}
			before := usedByInstaller(t, 2)
			began := time.Now()
			ns.apply("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: many}\nspec:\n  replicas: " + fmt.Sprint(pods) +
				"\n  selector: {matchLabels: {app: many}}\n  template:\n" + indent(p.template(t), "    "))
			ns.kubectl("rollout", "status", "deployment/many", "--timeout=600s")
			took := time.Since(began)
			after := usedByInstaller(t, 2)
			adds := networkTimes(t, 2, ns.name)
			if len(adds) < pods {
				t.Fatalf("the runtime's log tells of %d pods, want %d", len(adds), pods)
			}
			slices.Sort(adds)
			quantile := func(q float64) time.Duration { return adds[int(q*float64(len(adds)-1))].Round(time.Millisecond) }
			say("%d pods, %s: ready in %.0f s; CNI ADD p50 %v, p99 %v, most %v; installer: %v of CPU, %s resident",
				pods, c.name, took.Seconds(), quantile(0.5), quantile(0.99), quantile(1), after.cpu-before.cpu, after.resident)
			ns.kubectl("delete", "deployment/many", "--cascade=foreground", "--timeout=300s")
		})
	}
}

// What containerd logs before and after a pod's network set-up, all plugins
// together.
var (
	madeSandbox = regexp.MustCompile(`msg="RunPodSandbox for .*namespace:\\"([^\\]+)\\".* returns sandbox id \\"([0-9a-f]+)\\""$`)
	networkStep = regexp.MustCompile(`^time="([^"]+)" level=debug msg="(begin cni setup|cni result: .*)" podsandboxid=([0-9a-f]+)$`)
)

// networkTimes reads from the runtime's log on node n how long the network of
// each of a namespace's pods took.
func networkTimes(t *testing.T, n int, namespace string) (times []time.Duration) {
	t.Helper()
	log, err := os.ReadFile(fmt.Sprintf("%s/node%d-containerd.log", logDir, n))
	if err != nil {
		t.Fatal(err)
	}
	steps := map[string][]time.Time{}
	for line := range bytes.Lines(log) {
		line = bytes.TrimSpace(line)
		if m := networkStep.FindSubmatch(line); m != nil {
			at, err := time.Parse(time.RFC3339Nano, string(m[1]))
			if err != nil {
				t.Fatal(err)
			}
			steps[string(m[3])] = append(steps[string(m[3])], at)
		}
		if m := madeSandbox.FindSubmatch(line); m != nil && string(m[1]) == namespace {
			if s := steps[string(m[2])]; len(s) == 2 {
				times = append(times, s[1].Sub(s[0]))
			}
		}
	}
	return times
}

// use is the CPU time and memory of a process.
type use struct {
	cpu      time.Duration
	resident string
}

// usedByInstaller returns the use of the installer on node n, if there is one.
func usedByInstaller(t *testing.T, n int) (u use) {
	t.Helper()
	out := onNodeRun(t, n, "sh", "-c", `pid=$(pgrep -x tproxy-install) || exit 0; cat /proc/$pid/stat; grep VmRSS /proc/$pid/status`)
	if out == "" {
		return use{0, "0 kB"}
	}
	stat, resident, _ := strings.Cut(out, "\n")
	f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	for _, ticks := range f[11:13] { // user's and system's, hundredths of a second
		n, err := strconv.Atoi(ticks)
		if err != nil {
			t.Fatal(err)
		}
		u.cpu += time.Duration(n) * 10 * time.Millisecond
	}
	u.resident = strings.Join(strings.Fields(resident)[1:], " ")
	return u
}
