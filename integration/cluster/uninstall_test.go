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
	ns.apply(server("nat", 1, "nat").yaml(t), server("tproxy", 1, "tproxy").yaml(t), pod{name: "client", node: 2}.yaml(t))
	ns.ready("nat", "tproxy", "client")

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
		reaches(t, ns, "client", mode)
	}
	// The sidecar says why, and the application is not started before it.
	await(t, time.Minute, "the sidecar's complaint", func() error {
		log, _ := ns.try("logs", "late", "-c", "tproxy-proxy")
		if !strings.Contains(log, "not ready: connections to this pod are not intercepted") {
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
	err = errors.Join(kubectl("apply", "-k", out), installed(), kubectl("delete", "-k", out, "--timeout=60s"))
	if err != nil {
		t.Fatal(err)
	}
}
