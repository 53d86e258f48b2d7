package main

import (
	"bufio"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestSeeItWork: what an operator sees of a pod with kubectl, and on its node; before and
// after the pod's rules are lost, and after the next step that explain names.
func TestSeeItWork(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	for _, mode := range modes {
		p := server(mode, 1, mode)
		p.restricted = mode == "nat"
		ns.apply(p.yaml(t))
	}
	ns.ready(modes...)
	for _, mode := range modes {
		// kubectl exec: status, and a level that the container did not start with.
		sidecar := func(args ...string) string {
			return ns.kubectl(append([]string{"exec", mode, "-c", "tproxy-proxy", "--", "/tproxy-proxy"}, args...)...)
		}
		if out := sidecar("status"); !strings.Contains(out, " √ ready") || !strings.Contains(out, ":8080") {
			t.Errorf("%s: status says\n%s", mode, out)
		}
		sidecar("log-level", "warn")
		if out := sidecar("log-level"); strings.TrimSpace(out) != "warn" {
			t.Errorf("%s: the log level is %q", mode, out)
		}
		ns.livePage(mode)

		// On the node, by the pod's name.
		if out, ok := ns.explain1(mode); !ok || !regexp.MustCompile(`√ VERDICT +the application sees`).MatchString(out) {
			t.Errorf("%s: explain says\n%s", mode, out)
		}
		status := onNodeRun(t, 1, "sh", "-c", installProgram(t)+" status || true") // other tests' pods may be faulty
		if !regexp.MustCompile(`√ ` + ns.name + `/` + mode + ` +` + mode + ` +intercepted`).MatchString(status) {
			t.Errorf("%s: the node's status says\n%s", mode, status)
		}
		ip := ns.addrs("pod/" + mode)[0].String()
		onNodeRun(t, 1, "sh", "-c", fmt.Sprintf(
			"for n in $(ip netns | cut -d' ' -f1); do ip -n $n -br addr | grep -qF %s/ && ip netns exec $n nft flush ruleset; done; true", ip))
		out, ok := ns.explain1(mode)
		next := regexp.MustCompile(`(?m)^ +(kubectl .*)$`).FindStringSubmatch(out)
		if ok || next == nil || !strings.Contains(out, "× ") {
			t.Fatalf("%s: without rules explain says\n%s", mode, out)
		}
		ns.kubectl(strings.Fields(strings.TrimPrefix(next[1], "kubectl"))...)
		p := server(mode, 1, mode)
		ns.apply(p.yaml(t)) // as its controller would
	}
	ns.ready(modes...)
	for _, mode := range modes {
		if out, ok := ns.explain1(mode); !ok {
			t.Errorf("%s: after the next step explain says\n%s", mode, out)
		}
	}
}

func installProgram(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../../bin/tproxy-install")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// explain1 is `tproxy-install explain` of a pod on node 1; ok is its exit status 0.
func (ns *namespace) explain1(pod string) (out string, ok bool) {
	ns.t.Helper()
	text, err := exec.Command(binDir+"/cluster", "nx", "1", installProgram(ns.t), "explain", ns.name+"/"+pod).CombinedOutput()
	return string(text), err == nil
}

// livePage gets the sidecar's page through kubectl port-forward.
func (ns *namespace) livePage(pod string) {
	ns.t.Helper()
	cmd := exec.CommandContext(ns.t.Context(), binDir+"/kubectl", "--kubeconfig", kubeconfig, "-n", ns.name, "port-forward", "pod/"+pod, ":5001")
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		ns.t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	port := regexp.MustCompile(`127\.0\.0\.1:(\d+)`).FindStringSubmatch(line)
	if port == nil {
		ns.t.Fatalf("port-forward says %q, %v", line, err)
	}
	client := http.Client{Timeout: time.Minute}
	for _, path := range []string{"/", "/status", "/metrics"} {
		resp, err := client.Get("http://localhost:" + port[1] + path)
		if err != nil {
			ns.t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			ns.t.Errorf("%s%s: %s", pod, path, resp.Status)
		}
	}
}
