package main

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// reaches checks that a client reaches servers on port 8080 over both families, through
// the sidecar, and that the application sees the client's address.
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
		await(t, time.Minute, "relayed", func() error { // a connection is logged when it has ended
			if log, want := ns.relayed(server), from(g.client.Addr())+fmt.Sprint(g.client.Port())+" "; !strings.Contains(log, want) {
				return fmt.Errorf("the connection bypassed the sidecar of %s: no %q in its log\n%s", server, want, log)
			}
			return nil
		})
	}
}

// relayed returns the sidecar's log, which has a line for each connection once it has
// ended. In nat mode a relayed connection looks to the application like a direct one.
func (ns *namespace) relayed(pod string) string {
	ns.t.Helper()
	return ns.log(pod, "tproxy-proxy")
}

// from is a client's address, up to its port, as the log has it.
func from(a netip.Addr) string { return "msg=connection client=" + net.JoinHostPort(a.String(), "") }

// process returns a pod's node, and the pid there of the pod's process whose command
// line begins like this.
func (ns *namespace) process(pod, command string) (node int, pid string) {
	ns.t.Helper()
	var o struct {
		Metadata struct{ UID string }
		Spec     struct{ NodeName string }
	}
	ns.get("pod/"+pod, &o)
	if _, err := fmt.Sscanf(o.Spec.NodeName, "node%d", &node); err != nil {
		ns.t.Fatalf("%+v: %v", o, err)
	}
	out := onNodeRun(ns.t, node, "sh", "-c", `for p in $(grep -ls "`+o.Metadata.UID+`" /proc/[0-9]*/cgroup); do
		case "$(tr '\0' ' ' < ${p%cgroup}cmdline)" in "`+command+`"*) p=${p#/proc/} && echo ${p%/cgroup}; break; esac
	done`)
	if pid = strings.TrimSpace(out); pid == "" {
		ns.t.Fatalf("pod %s has no process %s on node %d", pod, command, node)
	}
	return node, pid
}

// finish sends a pod's program SIGTERM and returns its output: it reports at its end,
// and its log is removed with the pod.
func (ns *namespace) finish(pod, command string) string {
	ns.t.Helper()
	node, pid := ns.process(pod, command)
	onNodeRun(ns.t, node, "kill", "-TERM", pid)
	if _, err := ns.try("wait", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=240s", "pod/"+pod); err != nil {
		ns.t.Errorf("%v\n%s", err, ns.log(pod, "app"))
	}
	return ns.log(pod, "app")
}
