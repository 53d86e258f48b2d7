package main

import (
	"fmt"
	"net"
	"strings"
	"testing"
)

// TestListeners: an application may listen in any way; the same clients reach it as
// without the sidecar, and it sees their addresses.
func TestListeners(t *testing.T) {
	t.Parallel()
	kinds := []struct {
		name string
		args string
		want [2]bool // reached over IPv4, IPv6
	}{
		{name: "mptcp", args: `-mptcp, ":8081"`, want: [2]bool{true, true}},
		{name: "v6only", args: `-net, tcp6, "[::]:8082"`, want: [2]bool{false, true}},
		{name: "podip", args: `"$POD_IP:8083"`, want: [2]bool{true, false}},
		{name: "localhost", args: `"127.0.0.1:8084"`}, // and so unreachable without us too
	}
	ns := newNamespace(t)
	var objects, names []string
	for _, mode := range append([]string{"plain"}, modes...) {
		p := server(mode, 1, strings.TrimPrefix(mode, "plain"))
		for _, k := range kinds {
			p.containers = append(p.containers, "{name: "+k.name+", image: test/box:1, args: [serve, "+k.args+"], "+
				"env: [{name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]}")
		}
		users := server("userns-"+mode, 1, p.mode)
		users.spec = "hostUsers: false"
		objects = append(objects, p.yaml(t), users.yaml(t))
		names = append(names, p.name, users.name)
	}
	ns.apply(append(objects, pod{name: "client", node: 2}.yaml(t))...)
	ns.ready(append(names, "client")...)

	for _, mode := range modes {
		if log := ns.log(mode, "mptcp"); !strings.Contains(log, " MPTCP\n") {
			t.Errorf("the application does not listen with MPTCP:\n%s", log)
		}
		node, pid := ns.process("userns-"+mode, "/tproxy-proxy")
		if ids := strings.Fields(onNodeRun(t, node, "cat", "/proc/"+pid+"/uid_map")); len(ids) != 3 || ids[1] == "0" {
			t.Errorf("the sidecar has no user namespace of its own: %v", ids)
		}
	}
	want, targets := map[string]bool{}, []string{}
	for _, name := range names {
		for i, ip := range ns.addrs("pod/" + name) {
			for n, k := range kinds {
				if strings.HasPrefix(name, "userns-") {
					continue
				}
				target := net.JoinHostPort(ip.String(), fmt.Sprint(8081+n))
				targets, want[target] = append(targets, target), k.want[i]
			}
			target := net.JoinHostPort(ip.String(), "8080")
			targets, want[target] = append(targets, target), true
		}
	}
	for target, g := range dial(ns, "client", targets) {
		switch {
		case want[target] && g.err != "":
			t.Errorf("%s: %s", target, g.err)
		case want[target] && g.seen.Addr() != g.client.Addr():
			t.Errorf("%s: the application saw %s, the client is %s", target, g.seen, g.client)
		case !want[target] && !strings.Contains(g.err, "refused"):
			t.Errorf("%s: %+v, want a refusal", target, g)
		}
	}
}
