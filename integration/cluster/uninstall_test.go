package main

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestUninstall uninstalls the plugin and installs it again: in between the conflist is
// what the node's network wrote, byte for byte, old pods keep working and can be deleted,
// new ones work without interception, and one with the sidecar does not become ready. The
// second step takes out the binary.
func TestUninstall(t *testing.T) {
	d, err := theDistro()
	if err != nil {
		t.Fatal(err)
	}
	ns := newNamespace(t)
	ns.apply(server("nat", 1, "nat").yaml(t), server("tproxy", 1, "tproxy").yaml(t))
	ns.ready("nat", "tproxy")
	for _, mode := range modes {
		if out := ns.kubectl("exec", mode, "-c", "tproxy-proxy", "--", "/tproxy-proxy", "ready"); !strings.HasPrefix(out, "ready: "+mode+" mode") {
			t.Errorf("%s: ready says %q", mode, out)
		}
	}

	uninstall(t)
	for n := 1; n <= nodes; n++ {
		if got, want := list(t, n), d.on(n); got != want {
			t.Errorf("node %d: the conflist is\n%s\nit was\n%s", n, got, want)
		}
		if out := onNodeRun(t, n, "ls", d.binDir); !strings.Contains(out, "tproxy-cni") {
			t.Errorf("node %d: no binary to delete old pods with in %s:\n%s", n, d.binDir, out)
		}
	}
	ns.apply(server("plain", 1, "").yaml(t), server("late", 1, "nat").yaml(t))
	ns.ready("plain")
	for _, mode := range modes {
		reaches(t, ns, "node2", mode)
	}
	// The sidecar logs why, kubectl describe shows why, and the application does not
	// start before it is ready.
	await(t, 3*time.Minute, "the sidecar's complaint", func() error {
		if log := ns.log("late", "tproxy-proxy"); !strings.Contains(log, "not ready: connections to this pod are not intercepted") {
			return fmt.Errorf("log: %s", log)
		}
		return nil
	})
	reason := regexp.MustCompile(`Startup probe failed: not ready: IPv4.* plugin has not prepared this network namespace .*; what to do: `)
	await(t, time.Minute, "the reason in the pod's events", func() error {
		if out := ns.kubectl("describe", "pod", "late"); !reason.MatchString(out) {
			return fmt.Errorf("no reason in\n%s", out)
		}
		return nil
	})
	if out := ns.kubectl("get", "pod", "late", "-o", "jsonpath={.status.containerStatuses[0].started}"); out != "false" {
		t.Errorf("the application of a pod without interception has started: %q", out)
	}
	ns.kubectl("delete", "pod", "nat", "--timeout=120s") // by the list of the day: containerd
	uninstall(t, "TPROXY_REMOVE_BINARY=true", "TPROXY_FORCE=true")
	for n := 1; n <= nodes; n++ {
		if out := onNodeRun(t, n, "ls", d.binDir); strings.Contains(out, "tproxy") {
			t.Errorf("node %d: left in %s:\n%s", n, d.binDir, out)
		}
	}
	ns.kubectl("delete", "pod", "tproxy", "--timeout=120s")
}

// uninstall uninstalls the plugin on every node until the test ends. With env it also
// takes the second step.
func uninstall(t *testing.T, env ...string) {
	t.Helper()
	d, err := theDistro()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(kubectl("apply", "-k", manifests("install", d.name)), installed()); err != nil {
			t.Error(err)
		}
	})
	out := manifests("uninstall", d.name)
	err = errors.Join(kubectl("apply", "-k", out), installed())
	if len(env) > 0 {
		args := append([]string{"-n", "tproxy-cni", "set", "env", "daemonset/tproxy-install"}, env...)
		err = errors.Join(err, kubectl(args...), installed())
	}
	err = errors.Join(err, kubectl("delete", "-k", out, "--timeout=240s"))
	if err != nil {
		t.Fatal(err)
	}
}

// TestSameSecond creates pods and installs the plugin at the same time. A pod that
// starts before the plugin is not ready and its application does not start: no
// connection ever bypasses the sidecar. The installer with --repair then programs it.
func TestSameSecond(t *testing.T) {
	ns := newNamespace(t)
	d, err := theDistro()
	if err != nil {
		t.Fatal(err)
	}
	uninstall(t)

	var names []string
	early := func(i int) {
		var pods []string
		for _, mode := range modes {
			p := server(fmt.Sprintf("%s-%d", mode, i), 1, mode)
			pods, names = append(pods, p.yaml(t)), append(names, p.name)
		}
		ns.apply(pods...)
	}
	early(0)
	if err := kubectl("apply", "-k", manifests("install", d.name)); err != nil {
		t.Fatal(err)
	}
	early(1)
	await(t, 4*time.Minute, "in the chain", func() error { return chained(list(t, 1)) })
	early(2)
	if err := installed(); err != nil {
		t.Fatal(err)
	}
	late := 0
	for _, name := range names {
		await(t, 3*time.Minute, name, func() error {
			out := ns.kubectl("get", "pod", name, "-o", `jsonpath={.status.initContainerStatuses[0].ready} {.status.containerStatuses[0].started} {.status.conditions[?(@.type=="Ready")].status}`)
			log := ns.log(name, "tproxy-proxy")
			switch {
			case out == "true true True":
				reaches(t, ns, "node2", name)
				return nil
			case out == "false false False" && strings.Contains(log, "not ready: connections to this pod are not intercepted"):
				late++
				return nil
			default:
				return fmt.Errorf("sidecar ready, application started, pod ready: %s; the sidecar's log:\n%s", out, log)
			}
		})
	}
	t.Logf("%d of %d pods were earlier than the plugin", late, len(names))

	if err := kubectl("apply", "-k", manifests("repair", d.name)); err != nil {
		t.Fatal(err)
	}
	if err := installed(); err != nil {
		t.Fatal(err)
	}
	ns.ready(names...)
	reaches(t, ns, "node2", names...)
}
