package main

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// plainDeployment is a Deployment before injection; labels are further labels of its
// pods.
func plainDeployment(name, labels string) string {
	return `apiVersion: apps/v1
kind: Deployment
metadata: {name: ` + name + `}
spec:
  selector: {matchLabels: {app: ` + name + `}}
  template:
    metadata: {labels: {app: ` + name + labels + `}}
    spec:
      terminationGracePeriodSeconds: 5
      containers: [{name: app, image: test/box:1, args: [serve, ":8080"]}]
`
}

// TestInjectCommand applies the output of `tproxy-install inject` for a Deployment.
func TestInjectCommand(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	for _, mode := range modes {
		cmd := exec.Command("../../bin/tproxy-install", "inject", "--mode", mode)
		cmd.Stdin = strings.NewReader(plainDeployment(mode, ""))
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if _, err := ns.input(string(out), "apply", "-f", "-"); err != nil {
			t.Fatal(err)
		}
	}
	for _, mode := range modes {
		ns.intercepted(mode)
	}
}

// TestAdmissionPolicy: the API server injects by its admission policy.
func TestAdmissionPolicy(t *testing.T) {
	t.Parallel()
	if err := kubectl("apply", "-f", "../../k8s/inject.yaml"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := kubectl("delete", "-f", "../../k8s/inject.yaml"); err != nil {
			t.Error(err)
		}
	})
	ns := newNamespace(t)
	// A policy takes effect a moment after it was created.
	await(t, time.Minute, "policy in force", func() error {
		out, err := ns.input("apiVersion: v1\nkind: Pod\nmetadata: {name: try, labels: {tproxy-cni.io/inject: nat}}\n"+
			"spec: {containers: [{name: app, image: test/box:1}]}", "create", "-f", "-", "--dry-run=server", "-o", "yaml")
		if err == nil && !strings.Contains(out, "tproxy-proxy") {
			err = fmt.Errorf("not injected:\n%s", out)
		}
		return err
	})
	for _, mode := range modes {
		ns.apply(plainDeployment(mode, ", tproxy-cni.io/inject: "+mode))
	}
	for _, mode := range modes {
		ns.intercepted(mode)
	}
}

// intercepted checks that a Deployment's pod is reached through the sidecar.
func (ns *namespace) intercepted(deployment string) {
	ns.t.Helper()
	ns.kubectl("rollout", "status", "deployment/"+deployment, "--timeout=240s")
	name := strings.TrimSpace(ns.kubectl("get", "pods", "-l", "app="+deployment, "--field-selector=status.phase=Running", "-o", "jsonpath={.items[0].metadata.name}"))
	// The clients are served without a word of their own, as by probes: no line at info.
	ns.kubectl("exec", name, "-c", "tproxy-proxy", "--", "/tproxy-proxy", "log-level", "debug")
	reaches(ns.t, ns, "node2", name)
}
