package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/install/overview"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
)

// shownBy runs status on the node and returns its output and exit status.
func (n *testNode) shownBy(args ...string) (stdout, stderr string, exit int) {
	n.t.Helper()
	cmd := n.command("status", args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		exit = ended.ExitCode()
	} else {
		must(n.t, err)
	}
	return out.String(), errs.String(), exit
}

// TestStatus: what a person sees of a node and its pods, and what a script does.
// Nothing is changed by it.
func TestStatus(t *testing.T) {
	right, old, drifted := wired(t), wired(t), wired(t)
	nat := intercept.Default(contract.ModeNAT)
	must(t, intercept.Apply(right.Pod.Path(), nat))
	must(t, intercept.Apply(drifted.Pod.Path(), nat))
	drifted.Pod.Run("nft", "flush", "chain", "inet", "tproxy_cni", "spoofed")
	asks := map[string]string{contract.AnnotationPrefix + "mode": "nat"}
	good := fakePod{name: "good", netns: right.Pod.Path(), annotations: asks, containers: []fakeContainer{
		{"app", "nginx:1", 101}, {"tproxy-proxy", "tproxy-cni/tproxy-proxy:v1.2.3", contract.ProxyUID},
	}}
	fake := &fakeRuntime{}
	socket := serveRuntime(t, fake)
	n := newTestNode(t, "10-flannel.conflist")
	n.Installed()

	fake.set(good)
	out, stderr, exit := n.shownBy("--cri-socket", socket)
	if exit != 0 || !strings.Contains(out, " √ test/good  nat  intercepted, sidecar v1.2.3, 0 connections so far\n1 pod, 1 intercepted, 0 faults\n") || stderr != "" {
		t.Errorf("a node that is right: exit status %d\n%s%s", exit, out, stderr)
	}

	fake.set(good,
		fakePod{name: "by-default", netns: right.Pod.Path()},
		fakePod{name: "old", netns: old.Pod.Path(), annotations: asks},
		fakePod{name: "old-by-default", netns: old.Pod.Path()},
		fakePod{name: "drifted", netns: drifted.Pod.Path(), annotations: asks},
		fakePod{name: "host", annotations: asks, host: true},
		fakePod{name: "machine", netns: old.Pod.Path(), annotations: asks, handler: "kata"},
		fakePod{name: "stopped", netns: "/gone", annotations: asks, stopped: true},
		fakePod{name: "lost", netns: "/run/netns/not-there", annotations: asks},
		fakePod{name: "wrong", annotations: map[string]string{contract.AnnotationPrefix + "mode": "nut"}},
		fakePod{name: "none", netns: old.Pod.Path(), annotations: map[string]string{contract.AnnotationPrefix + "mode": "none"}},
		fakePod{name: "host-by-default", host: true},
	)
	before := old.Pod.Run("nft", "list", "ruleset") + drifted.Pod.Run("nft", "list", "ruleset")
	out, _, exit = n.shownBy("--cri-socket", "unix://"+socket, "--json")
	var r overview.Report
	must(t, json.Unmarshal([]byte(out), &r))
	if exit != 1 || r.Summary.ExitStatus != 1 || r.Node.PluginVersion != "v1 go1.26" || r.Node.DefaultMode != "nat" || r.Node.List != "10-flannel.conflist" {
		t.Errorf("exit status %d: %s", exit, out)
	}
	states := map[string]string{}
	for _, p := range r.Pods {
		states[p.Name] = string(p.State) + " " + string(p.Verdict)
	}
	want := map[string]string{
		"good": "intercepted ok", "by-default": "intercepted ok", "old": "came_first fault", "old-by-default": "left_alone note",
		"drifted": "drifted fault", "host": "host_network fault", "machine": "other_stack fault", "stopped": "not_ready note",
		"lost": "unknown unknown", "wrong": "invalid fault",
	}
	for name, one := range want {
		if states[name] != one {
			t.Errorf("%s is %q, want %q", name, states[name], one)
		}
	}
	if len(states) != len(want) {
		t.Errorf("%v", states)
	}
	if after := old.Pod.Run("nft", "list", "ruleset") + drifted.Pod.Run("nft", "list", "ruleset"); after != before {
		t.Errorf("status changed a pod:\n%s", after)
	}
}

// TestStatusWithoutRuntime: the node is shown, and that its pods are not known.
func TestStatusWithoutRuntime(t *testing.T) {
	n := newTestNode(t, "10-flannel.conflist")
	n.Installed()
	out, _, exit := n.shownBy("--cri-socket", filepath.Join(t.TempDir(), "none.sock"))
	if exit != 3 || !strings.Contains(out, " √ entry in ") || !strings.Contains(out, "none.sock") || !strings.Contains(out, "pods unknown, 0 faults") {
		t.Errorf("exit status %d\n%s", exit, out)
	}
	for _, args := range [][]string{{"--cri-socket", "relative"}, {"x"}, {"--jsn"}} {
		if out, stderr, exit := n.shownBy(args...); exit != 2 || out != "" || stderr == "" {
			t.Errorf("%q: exit status %d\n%s%s", args, exit, out, stderr)
		}
	}
}

// TestPlacesOfPlatforms: status looks where docs/PLATFORMS.md says that a platform has
// its directories and its socket, at the usual places last.
func TestPlacesOfPlatforms(t *testing.T) {
	page, err := os.ReadFile("../docs/PLATFORMS.md")
	must(t, err)
	found := 0
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, "|")
		if len(cells) != 9 || !strings.Contains(cells[3], "`/") {
			continue
		}
		found++
		for i, list := range map[int][]string{3: confDirs, 4: binDirs, 5: sockets} {
			if place := strings.Trim(cells[i], " `"); !slices.Contains(list, place) {
				t.Errorf("%s: status does not look at %s", strings.TrimSpace(cells[1]), place)
			}
		}
	}
	if found < 13 {
		t.Errorf("only %d platforms", found)
	}
	for list, usual := range map[*[]string]string{&confDirs: "/etc/cni/net.d", &binDirs: "/opt/cni/bin", &sockets: "/run/containerd/containerd.sock"} {
		if last := (*list)[len(*list)-1]; last != usual {
			t.Errorf("the last is %s, want %s", last, usual)
		}
	}
}

// TestFindPlaces: what a flag says counts, else what is there, else the usual.
func TestFindPlaces(t *testing.T) {
	here := t.TempDir()
	set := func(list *[]string, to ...string) {
		before := *list
		*list = to
		t.Cleanup(func() { *list = before })
	}
	set(&confDirs, "/not/there", "/nor/there", here)
	set(&binDirs, "/not/there", "/nor/there")
	set(&sockets, "/not/there")
	var c config
	if c.findPlaces(); c.confDir != here || c.binDir != "/nor/there" || c.criSocket != "" {
		t.Errorf("%+v", c)
	}
	c = config{confDir: "/given", binDir: "/given/bin", criSocket: "/given/socket"}
	if c.findPlaces(); c.confDir != "/given" || c.binDir != "/given/bin" || c.criSocket != "/given/socket" {
		t.Errorf("%+v", c)
	}
}
