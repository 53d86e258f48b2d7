package main

import (
	"net"
	"strings"
	"testing"
)

// TestListeners: an application may listen in any way; who reaches it is the
// same with us as without us, and it sees the client.
func TestListeners(t *testing.T) {
	podIP := `env: [{name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]`
	kinds := []struct {
		name      string
		args      []string
		container string
		spec      string
		want      [2]bool // reached over IPv4, IPv6
	}{
		{name: "mptcp", args: []string{"-mptcp", ":8080"}, want: [2]bool{true, true}},
		{name: "v6only", args: []string{"-net", "tcp6", "[::]:8080"}, want: [2]bool{false, true}},
		{name: "podip", args: []string{"$POD_IP:8080"}, container: podIP, want: [2]bool{true, false}},
		{name: "localhost", args: []string{"127.0.0.1:8080"}}, // and so unreachable without us too
		{name: "userns", args: []string{":8080"}, spec: "hostUsers: false", want: [2]bool{true, true}},
	}
	ns := newNamespace(t)
	var objects, names []string
	for _, k := range kinds {
		for _, mode := range append([]string{"plain"}, modes...) {
			p := pod{
				name: k.name + "-" + mode, node: 1, mode: strings.TrimPrefix(mode, "plain"),
				args: append([]string{"serve"}, k.args...), container: k.container, spec: k.spec,
			}
			objects, names = append(objects, p.yaml(t)), append(names, p.name)
		}
	}
	ns.apply(append(objects, pod{name: "client", node: 2}.yaml(t))...)
	ns.ready(append(names, "client")...)
	for _, mode := range modes {
		if log := ns.log("mptcp-"+mode, "app"); !strings.Contains(log, " MPTCP\n") {
			t.Errorf("the application does not listen with MPTCP:\n%s", log)
		}
		node, pid := ns.process("userns-"+mode, "/tproxy-proxy")
		if ids := strings.Fields(onNodeRun(t, node, "cat", "/proc/"+pid+"/uid_map")); len(ids) != 3 || ids[1] == "0" {
			t.Errorf("the sidecar has no user namespace of its own: %v", ids)
		}
	}
	for _, k := range kinds {
		for _, mode := range append([]string{"plain"}, modes...) {
			t.Run(k.name+"/"+mode, func(t *testing.T) {
				for i, ip := range ns.addrs("pod/" + k.name + "-" + mode) {
					target := net.JoinHostPort(ip.String(), "8080")
					g := dial(ns, "client", []string{target})[target]
					switch {
					case k.want[i] && g.err != "":
						t.Errorf("%s: %s", target, g.err)
					case k.want[i] && g.seen.Addr() != g.client.Addr():
						t.Errorf("%s: the application saw %s, the client is %s", target, g.seen, g.client)
					case !k.want[i] && !strings.Contains(g.err, "refused"):
						t.Errorf("%s: %+v, want a refusal", target, g)
					}
				}
			})
		}
	}
}
