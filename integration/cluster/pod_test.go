package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

var modes = []string{"nat", "tproxy"}

// A pod is one application with or without our sidecar.
type pod struct {
	name string
	node int    // where it runs; 0 leaves that to the scheduler
	mode string // "" is a pod without a sidecar and without our annotation
	args []string

	image       string   // "" is test/box:1
	containers  []string // further ones, in YAML's flow style
	container   string   // further fields of the application's container, in YAML's flow style
	annotations []string // further ones
	spec        string   // further fields of the pod
	restricted  bool     // fit for Pod Security restricted
}

// server makes a pod that serves port 8080 of both families.
func server(name string, node int, mode string) pod {
	return pod{
		name: name, node: node, mode: mode, args: []string{"serve", ":8080"},
		container: "readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}",
	}
}

func (p pod) yaml(t *testing.T) string {
	t.Helper()
	return "apiVersion: v1\nkind: Pod\n" + p.template(t)
}

// template is the pod as part of a Deployment or a Job.
func (p pod) template(t *testing.T) string {
	t.Helper()
	args, err := json.Marshal(append([]string{}, p.args...)) // none is [], not null
	if err != nil {
		t.Fatal(err)
	}
	lines := []string{"metadata:", "  name: " + p.name, "  labels: {app: " + p.name + "}", "  annotations:"}
	annotations := p.annotations
	if p.mode != "" {
		annotations = append([]string{"tproxy-cni.io/mode: " + p.mode}, annotations...)
	}
	for _, a := range append(annotations, "test/of: client-address") {
		lines = append(lines, "    "+a)
	}
	lines = append(lines, "spec:", "  terminationGracePeriodSeconds: 5")
	if p.node != 0 {
		lines = append(lines, fmt.Sprintf("  nodeSelector: {kubernetes.io/hostname: node%d}", p.node))
	}
	if p.spec != "" {
		lines = append(lines, "  "+p.spec)
	}
	security := ""
	if p.restricted {
		lines = append(lines, "  securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}")
		security = "securityContext: {runAsUser: 1000, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}, "
	}
	if p.mode != "" {
		lines = append(lines, "  initContainers:", "  - "+sidecar(p.mode))
	}
	image := p.image
	if image == "" {
		image = "test/box:1"
	}
	container := "{name: app, image: " + image + ", " + security + "args: " + string(args)
	if p.container != "" {
		container += ", " + p.container
	}
	lines = append(lines, "  containers:", "  - "+container+"}")
	for _, c := range p.containers {
		lines = append(lines, "  - "+c)
	}
	return strings.Join(lines, "\n")
}

// sidecar is the container as in README.md and the manifests.
func sidecar(mode string) string {
	security := map[string]string{
		"nat": "{runAsNonRoot: true, runAsUser: 7089, allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, " +
			"capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}",
		// No capabilities section: NET_RAW is in the runtime's default set, and
		// Pod Security baseline refuses pods that add it.
		"tproxy": "{runAsNonRoot: true, runAsUser: 7089, allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, seccompProfile: {type: RuntimeDefault}}",
	}[mode]
	return "{name: tproxy-proxy, image: tproxy-cni:latest, imagePullPolicy: Never, args: [--mode, " + mode + ", --log-level, debug], restartPolicy: Always, " +
		"startupProbe: {exec: {command: [/tproxy-proxy, ready]}, periodSeconds: 2, timeoutSeconds: 5, failureThreshold: 30}, securityContext: " + security + "}"
}
