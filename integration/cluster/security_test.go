package main

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// TestPodSecurity runs each mode in a namespace that enforces the Pod Security
// level promised for it, and reads from the node what the sidecar may do.
func TestPodSecurity(t *testing.T) {
	netRaw := fmt.Sprintf("%016x", 1<<13)
	none := fmt.Sprintf("%016x", 0)
	for _, c := range []struct {
		mode, level string
		bounding    func(string) bool // what it could ever get
	}{
		{"nat", "restricted", func(v string) bool { return v == none }},
		{"tproxy", "baseline", func(v string) bool { return v != none }},
	} {
		t.Run(c.mode, func(t *testing.T) {
			ns := newNamespace(t, "pod-security.kubernetes.io/enforce="+c.level)
			s := server("server", 1, c.mode)
			s.restricted = c.level == "restricted"
			client := pod{name: "client", node: 2, restricted: s.restricted}
			ns.apply(s.yaml(t), client.yaml(t))
			ns.ready("server", "client")
			reaches(t, ns, "client", "server")

			status := sidecarStatus(t, ns, "server")
			for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapAmb"} {
				if status[set] != none {
					t.Errorf("%s is %s, want none (NET_RAW is %s)", set, status[set], netRaw)
				}
			}
			if !c.bounding(status["CapBnd"]) {
				t.Errorf("CapBnd is %s", status["CapBnd"])
			}
			for field, want := range map[string]string{"Uid": "7089", "NoNewPrivs": "1", "Seccomp": "2"} {
				if status[field] != want {
					t.Errorf("%s is %s, want %s", field, status[field], want)
				}
			}
		})
	}
}

// TestRefusedByPodSecurity: a namespace that enforces restricted admits no
// tproxy mode, which needs NET_RAW. This is documented, and fails loudly.
func TestRefusedByPodSecurity(t *testing.T) {
	ns := newNamespace(t, "pod-security.kubernetes.io/enforce=restricted")
	_, err := ns.input(server("server", 1, "tproxy").yaml(t), "apply", "-f", "-")
	if err == nil || !strings.Contains(err.Error(), "violates PodSecurity") {
		t.Fatalf("got %v, want a violation of PodSecurity", err)
	}
}

// sidecarStatus is /proc/PID/status of the sidecar, read on its node.
func sidecarStatus(t *testing.T, ns *namespace, pod string) map[string]string {
	t.Helper()
	node, uid := ns.placed(pod)
	out := onNodeRun(t, node, "sh", "-c", `for p in /proc/[0-9]*; do
		grep -qs `+uid+` $p/cgroup && [ "$(cat $p/comm)" = tproxy-proxy ] && cat $p/status
	done; true`)
	status := map[string]string{}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 1 {
			status[strings.TrimSuffix(f[0], ":")] = f[1]
		}
	}
	if len(status) == 0 {
		t.Fatalf("no sidecar of pod %s on node %d", uid, node)
	}
	return status
}

// placed is on which node a pod is, and its uid.
func (ns *namespace) placed(pod string) (node int, uid string) {
	ns.t.Helper()
	out := ns.kubectl("get", "pod", pod, "-o", "jsonpath={.spec.nodeName} {.metadata.uid}")
	if _, err := fmt.Sscanf(out, "node%d %s", &node, &uid); err != nil {
		ns.t.Fatalf("%q: %v", out, err)
	}
	return node, uid
}

// reaches asks that a client reaches a server on port 8080 in both families,
// through the sidecar, and that the application sees the client.
func reaches(t *testing.T, ns *namespace, client, server string) {
	t.Helper()
	var targets []string
	for _, ip := range ns.addrs("pod/" + server) {
		targets = append(targets, net.JoinHostPort(ip.String(), "8080"))
	}
	for _, g := range dial(ns, client, targets) {
		if g.err != "" {
			t.Errorf("%s to %s: %s", client, server, g.err)
		} else if g.seen.Addr() != g.client.Addr() {
			t.Errorf("%s to %s: the application saw %s, the client is %s", client, server, g.seen, g.client)
		}
		want := "msg=accepted client=" + net.JoinHostPort(g.client.Addr().String(), "")
		await(t, 5*time.Second, "relayed", func() error {
			if log := ns.kubectl("logs", server, "-c", "tproxy-proxy"); !strings.Contains(log, want) {
				return fmt.Errorf("no %q in the sidecar's log:\n%s", want, log)
			}
			return nil
		})
	}
}
