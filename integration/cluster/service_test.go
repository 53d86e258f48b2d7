package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// TestNodePort dials a NodePort from outside the cluster. With externalTrafficPolicy
// Local the application sees the client; with Cluster it sees a node, because
// kube-proxy masquerades: the same as without the sidecar.
func TestNodePort(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	var objects []string
	servers := []string{"nat", "tproxy", "plain"}
	for _, name := range servers {
		mode := name
		if name == "plain" {
			mode = ""
		}
		objects = append(objects, server(name, 1, mode).yaml(t))
		for _, policy := range []string{"Local", "Cluster"} {
			objects = append(objects, service(name+"-"+strings.ToLower(policy), name, ", type: NodePort, externalTrafficPolicy: "+policy))
		}
	}
	ns.apply(objects...)
	ns.ready(servers...)
	for _, policy := range []string{"Local", "Cluster"} {
		for i, node := range []string{nodeIP(1), nodeIP6(1)} {
			seen := map[string]greeting{}
			for _, name := range servers {
				target := net.JoinHostPort(node, fmt.Sprint(ns.nodePort(name+"-"+strings.ToLower(policy))))
				await(t, time.Minute, "kube-proxy", func() error { // it learns of services and pods a moment later
					if seen[name] = dial(ns, "outside", []string{target})[target]; seen[name].err != "" {
						return errors.New(seen[name].err)
					}
					return nil
				})
			}
			for _, name := range servers {
				t.Run(fmt.Sprintf("%s, %s, %s", policy, name, []string{"IPv4", "IPv6"}[i]), func(t *testing.T) {
					g := seen[name]
					if policy == "Local" && g.seen.Addr() != g.client.Addr() {
						t.Errorf("the application saw %s, the client is %s", g.seen, g.client)
					}
					if policy == "Cluster" && g.seen.Addr() == g.client.Addr() {
						t.Errorf("the application saw the client %s: say so in the documentation", g.client)
					}
					if g.seen.Addr() != seen["plain"].seen.Addr() {
						t.Errorf("the application saw %s; without the sidecar it sees %s", g.seen.Addr(), seen["plain"].seen.Addr())
					}
				})
			}
		}
	}
}

// nodePort returns the port of a service on every node.
func (ns *namespace) nodePort(service string) int {
	ns.t.Helper()
	var o struct {
		Spec struct{ Ports []struct{ NodePort int } }
	}
	if err := json.Unmarshal([]byte(ns.kubectl("get", "service", service, "-o", "json")), &o); err != nil || len(o.Spec.Ports) == 0 {
		ns.t.Fatalf("service %s: %+v: %v", service, o, err)
	}
	return o.Spec.Ports[0].NodePort
}
