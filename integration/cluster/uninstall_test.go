package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestUninstall takes the plugin out and puts it in again: the list is then
// what the node's network wrote, byte for byte, old pods keep working, new
// ones work without us, and one that asks for us does not start.
func TestUninstall(t *testing.T) {
	d, err := theDistro()
	if err != nil {
		t.Fatal(err)
	}
	ns := newNamespace(t)
	ns.apply(server("nat", 1, "nat").yaml(t), server("tproxy", 1, "tproxy").yaml(t))
	ns.ready("nat", "tproxy")

	uninstall(t)
	for n := 1; n <= nodes; n++ {
		if got, want := list(t, n), d.on(n); got != want {
			t.Errorf("node %d: the list is\n%s\nit was\n%s", n, got, want)
		}
		if out := onNodeRun(t, n, "ls", d.binDir); strings.Contains(out, "tproxy") {
			t.Errorf("node %d: left in %s:\n%s", n, d.binDir, out)
		}
	}
	ns.apply(server("plain", 1, "").yaml(t), server("late", 1, "nat").yaml(t))
	ns.ready("plain")
	for _, mode := range modes {
		reaches(t, ns, "node2", mode)
	}
	// The sidecar says why, and the application is not started before it.
	await(t, 3*time.Minute, "the sidecar's complaint", func() error {
		if log := ns.log("late", "tproxy-proxy"); !strings.Contains(log, "not ready: connections to this pod are not intercepted") {
			return fmt.Errorf("log: %s", log)
		}
		return nil
	})
	if out := ns.kubectl("get", "pod", "late", "-o", "jsonpath={.status.containerStatuses[0].started}"); out != "false" {
		t.Errorf("the application of a pod that is not intercepted: started is %q", out)
	}
}

// uninstall takes the plugin out of every node, until the test ends.
func uninstall(t *testing.T) {
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
	err = errors.Join(kubectl("apply", "-k", out), installed(), kubectl("delete", "-k", out, "--timeout=240s"))
	if err != nil {
		t.Fatal(err)
	}
}

// TestSameSecond makes pods and installs the plugin at the same time. A pod
// that was earlier than the plugin is not ready and its application is not
// started: it is never reached past the sidecar. The installer that repairs
// then gives it what it lacks.
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
