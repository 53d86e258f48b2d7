package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestRollingUpdate replaces all pods of a Deployment while a client makes 200
// connections a second through its service: none may fail. As without a sidecar, the
// application has a preStop hook to serve until kube-proxy has removed it.
func TestRollingUpdate(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			ns := newNamespace(t)
			p := server("web", 0, mode)
			// Without a CPU request it would get none on a busy machine.
			p.container += `, lifecycle: {preStop: {sleep: {seconds: 3}}}, resources: {requests: {cpu: 100m}}`
			ns.apply(service("web", "web", ""), "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n"+
				"  replicas: 2\n  selector: {matchLabels: {app: web}}\n  template:\n"+
				indent(p.template(t), "    "))
			ns.kubectl("rollout", "status", "deployment/web", "--timeout=240s")
			load := []string{"load", "-rate", "200"}
			for _, ip := range ns.addrs("service/web") {
				load = append(load, net.JoinHostPort(ip.String(), "8080"))
			}
			await(t, time.Minute, "kube-proxy", func() error { // it learns of the service a moment later
				for _, g := range dial(ns, "node2", load[3:]) {
					if g.err != "" {
						return errors.New(g.err)
					}
				}
				return nil
			})
			ns.apply(pod{name: "client", node: 2, args: load, spec: "restartPolicy: Never", container: "resources: {requests: {cpu: 100m}}"}.yaml(t))
			ns.ready("client")
			logs := ns.keepLogs()
			ns.kubectl("rollout", "restart", "deployment/web")
			ns.kubectl("rollout", "status", "deployment/web", "--timeout=240s")
			out := ns.finish("client", "/box load")
			var good, servers, failed int
			report := out[max(0, strings.LastIndex(out, "good ")):]
			if _, err := fmt.Sscanf(report, "good %d servers %d failed %d", &good, &servers, &failed); err != nil {
				t.Fatalf("%q: %v", out, err)
			}
			if failed != 0 || servers < 3 || good < 100 { // the last new one may have come too late; how many there are depends on how long the update takes
				t.Errorf("want none failed, and servers of both generations:\n%s\nthe sidecars of failed connections:\n%s", out, logs(out))
			}
			t.Log(report)
		})
	}
}

// keepLogs keeps the logs of pods that end meanwhile. The returned function finds the
// lines about the clients in a report of failures.
func (ns *namespace) keepLogs() func(report string) string {
	dir, done := filepath.Join(runDir, "kept", ns.name), make(chan struct{})
	if err := os.MkdirAll(dir, 0o755); err != nil {
		ns.t.Fatal(err)
	}
	keep := func() {
		logs, _ := filepath.Glob(fmt.Sprintf("%s/node*/var/log/pods/%s_*/*/*.log", runDir, ns.name))
		for _, path := range logs {
			_ = os.Link(path, filepath.Join(dir, strings.ReplaceAll(path, "/", "_"))) // most are there already
		}
	}
	go func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(200 * time.Millisecond):
				keep()
			}
		}
	}()
	ns.t.Cleanup(func() { close(done) })
	return func(report string) string {
		keep()
		var found strings.Builder
		for _, m := range regexp.MustCompile(` from (\S+):`).FindAllStringSubmatch(report, 20) {
			out, _ := exec.Command("grep", "-rhF", "client="+m[1]+" ", dir).Output()
			fmt.Fprintf(&found, "%s: %s\n", m[1], out)
		}
		return found.String()
	}
}

// TestDrain deletes pods to which a client holds connections: new ones are refused,
// the old ones work until the client closes them, and then the pods end before their
// grace period does.
func TestDrain(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	ns.apply(server("nat", 1, "nat").yaml(t), server("tproxy", 1, "tproxy").yaml(t))
	ns.ready(modes...)
	var targets []string
	for _, mode := range modes {
		for _, ip := range ns.addrs("pod/" + mode) {
			targets = append(targets, net.JoinHostPort(ip.String(), "8080"))
		}
	}
	ns.apply(pod{name: "client", node: 2, args: append([]string{"hold"}, targets...), spec: "restartPolicy: Never"}.yaml(t))
	rounds := func(atLeast int) error {
		if n := strings.Count(ns.log("client", "app"), "round "); n < atLeast {
			return fmt.Errorf("%d rounds, want %d", n, atLeast)
		}
		return nil
	}
	ns.ready("client")
	await(t, time.Minute, "connections", func() error { return rounds(1) })

	ns.kubectl("delete", "pod", "nat", "tproxy", "--grace-period=120", "--wait=false")
	await(t, time.Minute, "refusals", func() error {
		for _, g := range dial(ns, "node2", targets) {
			if !strings.Contains(g.err, "refused") {
				return fmt.Errorf("%+v", g)
			}
		}
		return nil
	})
	before := strings.Count(ns.log("client", "app"), "round ")
	await(t, time.Minute, "further rounds", func() error { return rounds(before + 30) })
	if out := ns.finish("client", "/box hold"); !strings.HasSuffix(out, "\nall ended\n") {
		t.Errorf("the connections did not end well:\n%s", out)
	}
	ns.kubectl("wait", "--for=delete", "--timeout=60s", "pod/nat", "pod/tproxy")
}
