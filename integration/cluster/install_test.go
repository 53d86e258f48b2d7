package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// manifests is one of the directories of k8s/ for the cluster's distribution.
func manifests(folder, distro string) string {
	return filepath.Join("../../k8s", folder, distro)
}

// installed waits until every node's installer reports that the plugin is in the
// chain.
func installed() error {
	return kubectl("-n", "tproxy-cni", "rollout", "status", "daemonset/tproxy-install", "--timeout=240s")
}

// list returns the network's conflist on a node, as it is now.
func list(t *testing.T, n int) string {
	t.Helper()
	d, err := theDistro()
	if err != nil {
		t.Fatal(err)
	}
	return onNodeRun(t, n, "cat", filepath.Join(d.confDir, d.list))
}

// chained returns an error unless our plugin is the last of a valid conflist.
func chained(text string) error {
	var l struct{ Plugins []struct{ Type string } }
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		return fmt.Errorf("%w in\n%s", err, text)
	}
	if n := len(l.Plugins); n == 0 || l.Plugins[n-1].Type != "tproxy-cni" {
		return fmt.Errorf("not in the chain:\n%s", text)
	}
	return nil
}

// TestListRewritten: when the node's network rewrites its conflist, in its own way,
// our entry is back at once and the next pod is intercepted.
func TestListRewritten(t *testing.T) {
	ns := newNamespace(t)
	d, err := theDistro()
	if err != nil {
		t.Fatal(err)
	}
	for round := range 2 {
		if err := chained(list(t, 1)); err != nil {
			t.Fatal(err)
		}
		// The list is replaced from here, so that the moment is known.
		own := d.on(1)
		path := filepath.Join(d.confDir, d.list)
		write := "cat > " + path
		if !d.inPlace {
			write = "cat > " + path + ".temp && mv " + path + ".temp " + path
		}
		began := time.Now()
		onNodeInput(t, 1, own, "sh", "-c", write)
		await(t, 10*time.Second, "repair", func() error { return chained(list(t, 1)) })
		t.Logf("repaired within %v, of which most is the time to look", time.Since(began).Round(time.Millisecond))

		name := fmt.Sprintf("nat-%d", round)
		ns.apply(server(name, 1, "nat").yaml(t))
		ns.ready(name)
		reaches(t, ns, "node2", name)
	}
	// The same by the network's own daemon, which takes a moment to restart: until
	// then the old conflist has our entry, too.
	changed := func() string { return onNodeRun(t, 1, "stat", "-c", "%i %z", filepath.Join(d.confDir, d.list)) }
	before := changed()
	onNodeRun(t, 1, "pkill", "-x", "base-cni")
	await(t, time.Minute, "rewritten and repaired", func() error {
		if changed() == before {
			return errors.New("the conflist has not been rewritten")
		}
		return chained(list(t, 1))
	})
}

// TestUpdateUnderPods restarts the installer while 50 pods are being created: all of
// them start, and the annotated ones are intercepted. With k3s, where only paths
// differ, there are fewer: a pod takes two cores two seconds.
func TestUpdateUnderPods(t *testing.T) {
	ns := newNamespace(t)
	d, err := theDistro()
	if err != nil {
		t.Fatal(err)
	}
	each := map[string]int{"kubeadm": 15, "k3s": 4}[d.name]
	deployment := func(name, mode string, pods int) string {
		p := server(name, 0, mode)
		p.container = "" // 50 probes a second are another test's load
		return fmt.Sprintf("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: %[1]s}\nspec:\n  replicas: %[2]d\n"+
			"  selector: {matchLabels: {app: %[1]s}}\n  template:\n", name, pods) + indent(p.template(t), "    ")
	}
	if err := kubectl("-n", "tproxy-cni", "rollout", "restart", "daemonset/tproxy-install"); err != nil {
		t.Fatal(err)
	}
	ns.apply(deployment("nat", "nat", each), deployment("tproxy", "tproxy", each), deployment("plain", "", each+5))
	if err := installed(); err != nil {
		t.Fatal(err)
	}
	for _, name := range append([]string{"plain"}, modes...) {
		ns.kubectl("rollout", "status", "deployment/"+name, "--timeout=240s")
	}
	for _, mode := range modes {
		reaches(t, ns, "node2", strings.Fields(ns.kubectl("get", "pods", "-l", "app="+mode, "-o", "jsonpath={.items[*].metadata.name}"))...)
	}
}
