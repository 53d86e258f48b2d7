package main

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestProbes: the kubelet's probes of the application go through the sidecar like all
// connections, and have the same results as without it.
func TestProbes(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	good := `startupProbe: {tcpSocket: {port: 8081}, periodSeconds: 1}, livenessProbe: {httpGet: {path: /healthz, port: 8081}, periodSeconds: 1}, ` +
		`readinessProbe: {exec: {command: [/agnhost, help]}, periodSeconds: 1, timeoutSeconds: 10}`
	var objects []string
	for _, mode := range modes {
		objects = append(objects,
			pod{name: "http-" + mode, mode: mode, image: "test/agnhost:1", args: []string{"netexec", "--http-port=8081", "--udp-port=-1"}, container: good}.yaml(t),
			pod{
				name: "grpc-" + mode, mode: mode, image: "test/agnhost:1", args: []string{"grpc-health-checking", "--port=9000"},
				container: `livenessProbe: {grpc: {port: 9000}}, readinessProbe: {grpc: {port: 9000}, periodSeconds: 1}`,
			}.yaml(t),
			// nothing listens on 9: a proxy that accepts before it has dialled
			// would make this one ready
			pod{name: "bad-" + mode, mode: mode, args: []string{"serve", ":8080"}, container: "readinessProbe: {tcpSocket: {port: 9}, periodSeconds: 1}"}.yaml(t),
		)
	}
	ns.apply(objects...)
	for _, mode := range modes {
		ns.ready("http-"+mode, "grpc-"+mode)
		await(t, 3*time.Minute, "failing probe of "+mode, func() error {
			out := ns.kubectl("describe", "pod", "bad-"+mode)
			if !regexp.MustCompile(`Readiness probe failed: .*:9: connect: connection refused`).MatchString(out) {
				return fmt.Errorf("no refusal in\n%s", out)
			}
			return nil
		})
		for probe, pod := range map[string]string{
			`dst=\S+:8081 \S+ bytes_up=0 `:    "http-", // tcpSocket
			`dst=\S+:8081 \S+ bytes_up=[1-9]`: "http-",
			`dst=\S+:9000 `:                   "grpc-",
		} {
			await(t, time.Minute, pod+mode+"'s probe", func() error { // it may be ready before each kind has had its turn
				if log := ns.relayed(pod + mode); !regexp.MustCompile(probe).MatchString(log) {
					return fmt.Errorf("no %s in the sidecar's log:\n%s", probe, log)
				}
				return nil
			})
		}
		ready := ns.kubectl("get", "pod", "bad-"+mode, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
		if ready != "False" {
			t.Errorf("%s: Ready is %s for an application that does not listen on the probe's port", mode, ready)
		}
	}
}

// TestSidecarKilled: while the sidecar is down connections are refused and never
// bypass it, and they work again after its restart.
func TestSidecarKilled(t *testing.T) {
	ns := newNamespace(t)
	ns.apply(server("nat", 1, "nat").yaml(t), server("tproxy", 1, "tproxy").yaml(t))
	ns.ready("nat", "tproxy")
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			reaches(t, ns, "node1", mode)
			restarts := ns.restarts(mode)
			// The kubelet is stopped, as it would restart the sidecar.
			onNodeRun(t, 1, "pkill", "-STOP", "-x", "kubelet")
			t.Cleanup(func() { onNodeRun(t, 1, "pkill", "-CONT", "-x", "kubelet") })
			_, pid := ns.process(mode, "/tproxy-proxy")
			onNodeRun(t, 1, "kill", "-KILL", pid)
			var targets []string
			for _, ip := range ns.addrs("pod/" + mode) {
				targets = append(targets, net.JoinHostPort(ip.String(), "8080"))
			}
			for range 3 {
				for _, g := range dial(ns, "node1", targets) {
					if !strings.Contains(g.err, "refused") {
						t.Errorf("with the sidecar dead: %+v, want a refusal", g)
					}
				}
			}
			onNodeRun(t, 1, "pkill", "-CONT", "-x", "kubelet")
			await(t, 3*time.Minute, "restart of the sidecar", func() error {
				if n := ns.restarts(mode); n == restarts {
					return fmt.Errorf("restarted %d times", n)
				}
				return nil
			})
			ns.ready(mode)
			reaches(t, ns, "node1", mode)
		})
	}
}

// restarts returns how many times the sidecar was restarted.
func (ns *namespace) restarts(pod string) (n int) {
	ns.t.Helper()
	out := ns.kubectl("get", "pod", pod, "-o", "jsonpath={.status.initContainerStatuses[0].restartCount}")
	if _, err := fmt.Sscan(out, &n); err != nil {
		ns.t.Fatalf("%q: %v", out, err)
	}
	return n
}

// TestJob: a Job ends when its application does, although the sidecar would
// not.
func TestJob(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	for _, mode := range modes {
		p := pod{name: mode, mode: mode, args: []string{"dial", "127.0.0.1:1"}, spec: "restartPolicy: Never"}
		ns.apply("apiVersion: batch/v1\nkind: Job\nmetadata: {name: " + mode + "}\nspec:\n  backoffLimit: 0\n  template:\n" + indent(p.template(t), "    "))
	}
	for _, mode := range modes {
		ns.kubectl("wait", "--for=condition=Complete", "--timeout=240s", "job/"+mode)
	}
}

func indent(text, by string) string { return by + strings.ReplaceAll(text, "\n", "\n"+by) }

// TestKubeletRestarted: a restart of the kubelet does not affect pods.
func TestKubeletRestarted(t *testing.T) {
	ns := newNamespace(t)
	ns.apply(server("nat", 1, "nat").yaml(t), server("tproxy", 1, "tproxy").yaml(t))
	ns.ready("nat", "tproxy")
	before := onNodeRun(t, 1, "pgrep", "-x", "kubelet")
	onNodeRun(t, 1, "pkill", "-x", "kubelet")
	await(t, 3*time.Minute, "kubelet back", func() error {
		if now := onNodeRun(t, 1, "sh", "-c", "pgrep -x kubelet || true"); now == "" || now == before {
			return fmt.Errorf("kubelets: %q", now)
		}
		return nil
	})
	if err := kubectl("wait", "--for=condition=Ready", "--timeout=240s", "node/node1"); err != nil {
		t.Fatal(err)
	}
	for _, mode := range modes {
		ns.ready(mode)
		if n := ns.restarts(mode); n != 0 {
			t.Errorf("%s: the sidecar was restarted %d times", mode, n)
		}
		reaches(t, ns, "node1", mode)
	}
}

// TestReboot kills a node and boots it from its disk: its pods come back, intercepted.
// At boot the node's network rewrites its conflist and the kubelet does not wait for
// the installer, so it has to be the installer that repairs pods.
func TestReboot(t *testing.T) {
	ns := newNamespace(t)
	d, err := theDistro()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(kubectl("apply", "-k", manifests("install", d.name)), installed()); err != nil {
			t.Error(err)
		}
	})
	if err := errors.Join(kubectl("apply", "-k", manifests("repair", d.name)), installed()); err != nil {
		t.Fatal(err)
	}
	ns.apply(server("nat", 2, "nat").yaml(t), server("tproxy", 2, "tproxy").yaml(t))
	ns.ready("nat", "tproxy")
	was := map[string]string{}
	for _, mode := range modes {
		was[mode] = ns.kubectl("get", "pod", mode, "-o", "jsonpath={.status.podIP}")
	}
	if err := stop(nodeDir(2) + ".pid"); err != nil {
		t.Fatal(err)
	}
	if err := startNode(2); err != nil {
		t.Fatal(err)
	}
	await(t, 4*time.Minute, "pods made anew", func() error {
		if err := kubectl("wait", "--for=condition=Ready", "--timeout=1s", "node/node2"); err != nil {
			return err
		}
		for _, mode := range modes {
			if now := ns.kubectl("get", "pod", mode, "-o", "jsonpath={.status.podIP}"); now == "" || now == was[mode] {
				return fmt.Errorf("%s has the address %q, it had %s", mode, now, was[mode])
			}
		}
		return nil
	})
	for _, mode := range modes {
		ns.ready(mode)
		reaches(t, ns, "node1", mode)
	}
}
