package main

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// reaches asks that a client reaches servers on port 8080 in both families,
// through the sidecar, and that the application sees the client.
func reaches(t *testing.T, ns *namespace, client string, servers ...string) {
	t.Helper()
	of := map[string]string{}
	var targets []string
	for _, s := range servers {
		for _, ip := range ns.addrs("pod/" + s) {
			target := net.JoinHostPort(ip.String(), "8080")
			targets, of[target] = append(targets, target), s
		}
	}
	for target, g := range dial(ns, client, targets) {
		server := of[target]
		if g.err != "" {
			t.Errorf("%s to %s: %s", client, server, g.err)
			continue
		}
		if g.seen.Addr() != g.client.Addr() {
			t.Errorf("%s to %s: the application saw %s, the client is %s", client, server, g.seen, g.client)
		}
		await(t, 5*time.Second, "relayed", func() error {
			if sockets := ns.sockets(server); !strings.Contains(sockets, from(g.client.Addr())) {
				return fmt.Errorf("%s has no socket whose own address is the client's, %s: the sidecar was passed by\n%s", server, g.client, sockets)
			}
			return nil
		})
	}
}

// from is how a socket's own address looks in [namespace.sockets].
func from(a netip.Addr) string { return " " + net.JoinHostPort(a.String(), "") }

// sockets lists the TCP sockets in a pod's network by their own addresses,
// also those in TIME_WAIT. Only a sidecar has one whose own address is a
// client's, and in nat mode nothing else tells a relayed connection.
func (ns *namespace) sockets(pod string) string {
	ns.t.Helper()
	node, pid := ns.process(pod, "")
	var own []string
	for line := range strings.Lines(onNodeRun(ns.t, node, "nsenter", "-t", pid, "-n", "ss", "-Htan")) {
		if f := strings.Fields(line); len(f) > 3 {
			own = append(own, " "+f[3]+" "+f[0])
		}
	}
	return strings.Join(own, "\n")
}

// process finds a pod's node, and on it the pid of a process of the pod; "" is
// any.
func (ns *namespace) process(pod, name string) (node int, pid string) {
	ns.t.Helper()
	var uid string
	out := ns.kubectl("get", "pod", pod, "-o", "jsonpath={.spec.nodeName} {.metadata.uid}")
	if _, err := fmt.Sscanf(out, "node%d %s", &node, &uid); err != nil {
		ns.t.Fatalf("%q: %v", out, err)
	}
	out = onNodeRun(ns.t, node, "sh", "-c", `for p in /proc/[0-9]*; do
		grep -qs `+uid+` $p/cgroup && { [ -z "`+name+`" ] || [ "$(cat $p/comm)" = "`+name+`" ]; } && echo ${p#/proc/} && break
	done; true`)
	if pid = strings.TrimSpace(out); pid == "" {
		ns.t.Fatalf("pod %s has no process %s on node %d", pod, name, node)
	}
	return node, pid
}
