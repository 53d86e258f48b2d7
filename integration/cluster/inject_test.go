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

// TestAdmissionPolicy: the API server injects by its admission policy, and refuses what
// would run without the sidecar: also when the mutating policy is not there, as before
// Kubernetes 1.36.
func TestAdmissionPolicy(t *testing.T) {
	t.Parallel()
	if err := kubectl("apply", "-f", "../../k8s/inject.yaml"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := kubectl("delete", "--ignore-not-found", "-f", "../../k8s/inject.yaml"); err != nil {
			t.Error(err)
		}
	})
	ns := newNamespace(t)
	try := func(metadata, spec string) (string, error) {
		return ns.input("apiVersion: v1\nkind: Pod\nmetadata: {name: try, "+metadata+"}\n"+
			"spec: {containers: [{name: app, image: test/box:1}]"+spec+"}", "create", "-f", "-", "--dry-run=server", "-o", "yaml")
	}
	const label = "labels: {tproxy-cni.io/inject: nat}"
	// A policy takes effect a moment after it was created, each of the two on its own.
	await(t, time.Minute, "mutating policy in force", func() error {
		out, err := try(label, "")
		if err == nil && !strings.Contains(out, "tproxy-proxy") {
			err = fmt.Errorf("not injected:\n%s", out)
		}
		return err
	})
	refusal := func(metadata, spec, want string) error {
		if out, err := try(metadata, spec); err == nil || !strings.Contains(err.Error(), want) {
			return fmt.Errorf("%s%s: %v, want %q\n%s", metadata, spec, err, want, out)
		}
		return nil
	}
	await(t, time.Minute, "validating policy in force", func() error {
		return refusal("labels: {tproxy-cni.io/inject: none}", "", "want nat or tproxy, or no label")
	})
	refused := func(metadata, spec, want string) {
		t.Helper()
		if err := refusal(metadata, spec, want); err != nil {
			t.Error(err)
		}
	}
	refused(label, ", hostNetwork: true", "hostNetwork: the pod has no network of its own")
	refused(label, ", initContainers: [{name: tproxy-proxy, image: test/box:1}]", "asks for the sidecar, and the pod has none")
	for _, mode := range modes {
		ns.apply(plainDeployment(mode, ", tproxy-cni.io/inject: "+mode))
	}
	for _, mode := range modes {
		ns.intercepted(mode)
	}

	for _, kind := range []string{"mutatingadmissionpolicybinding", "mutatingadmissionpolicy"} {
		if err := kubectl("delete", kind, "tproxy-cni-inject"); err != nil {
			t.Fatal(err)
		}
	}
	await(t, time.Minute, "refused without the mutating policy", func() error {
		return refusal(label, "", "asks for the sidecar, and the pod has none")
	})
	if out, err := try("labels: {app: web}", ""); err != nil {
		t.Errorf("a pod without the label is refused: %v\n%s", err, out)
	}
	cmd := exec.Command("../../bin/tproxy-install", "inject")
	cmd.Stdin = strings.NewReader(plainDeployment("by-command", ", tproxy-cni.io/inject: tproxy"))
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	ns.apply(string(out))
	ns.intercepted("by-command")
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
