package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// A greeting is what the application said, beside what the client knows.
type greeting struct {
	target     string
	client     netip.AddrPort // the client's own address
	seen       netip.AddrPort // the client's address as the application saw it
	servedAt   netip.AddrPort
	servedBy   string
	err        string
	clientName string
}

// greetings reads what box dial prints.
func greetings(client, out string) map[string]greeting {
	all := map[string]greeting{}
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) == 5 && f[1] != "error" {
			all[f[0]] = greeting{
				target: f[0], clientName: client, client: netip.MustParseAddrPort(f[1]), seen: netip.MustParseAddrPort(f[2]),
				servedAt: netip.MustParseAddrPort(f[3]), servedBy: f[4],
			}
		} else if len(f) > 0 {
			all[f[0]] = greeting{target: f[0], clientName: client, err: strings.TrimSpace(line)}
		}
	}
	return all
}

// TestClientAddress dials, in both families, pods of both modes and one
// without a sidecar, at their own address and through a ClusterIP service: from
// a pod on the same node, one on the other node, and both nodes themselves.
// The application must see the same as without the sidecar, which for a client pod
// is the pod's address.
func TestClientAddress(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	servers := []string{"nat", "tproxy", "plain"}
	var objects []string
	for _, name := range servers {
		mode := strings.TrimSuffix(name, "plain")
		objects = append(objects, server(name, 1, mode).yaml(t), service(name, name, ""))
	}
	clients := []string{"same", "other"}
	for i, name := range clients {
		objects = append(objects, pod{name: name, node: i + 1}.yaml(t))
	}
	ns.apply(objects...)
	ns.ready(append(servers, clients...)...)

	type route struct{ server, kind, family string }
	routes := map[string]route{}
	var targets []string
	for _, s := range servers {
		for kind, object := range map[string]string{"pod": "pod/" + s, "service": "service/" + s} {
			for i, ip := range ns.addrs(object) {
				target := net.JoinHostPort(ip.String(), "8080")
				routes[target] = route{s, kind, []string{"IPv4", "IPv6"}[i]}
				targets = append(targets, target)
			}
		}
	}
	for _, node := range []string{"node1", "node2"} {
		await(t, time.Minute, "kube-proxy", func() error { // it learns of services and pods a moment later
			for target, g := range dial(ns, node, targets) {
				if routes[target].kind == "service" && g.err != "" {
					return errors.New(g.err)
				}
			}
			return nil
		})
	}
	for _, client := range []string{"same", "other", "node1", "node2"} {
		got := map[route]greeting{}
		for target, g := range dial(ns, client, targets) {
			got[routes[target]] = g
		}
		for r, g := range got {
			t.Run(fmt.Sprintf("%s to %s of %s, %s", client, r.kind, r.server, r.family), func(t *testing.T) {
				if g.err != "" {
					t.Fatal(g.err)
				}
				inLog := func(container, want string) {
					await(t, time.Minute, container+"'s log", func() error {
						if log := ns.log(r.server, container); !strings.Contains(log, want) {
							return fmt.Errorf("no %q in\n%s", want, log)
						}
						return nil
					})
				}
				inLog("app", "accepted "+g.seen.String()+" ")
				if r.server != "plain" {
					inLog("tproxy-proxy", from(g.seen.Addr())) // else it was passed by
				}
				if plain := got[route{"plain", r.kind, r.family}]; g.seen.Addr() != plain.seen.Addr() {
					t.Errorf("the application saw %s; without the sidecar it sees %s", g.seen.Addr(), plain.seen.Addr())
				}
				if strings.HasPrefix(client, "node") && r.kind == "service" {
					return // kube-proxy masquerades what comes from outside of the pods' network
				}
				if g.seen.Addr() != g.client.Addr() {
					t.Errorf("the application saw %s, the client is %s", g.seen.Addr(), g.client.Addr())
				}
				if r.server != "tproxy" && g.seen.Port() != g.client.Port() {
					t.Errorf("the application saw port %d, the client's is %d", g.seen.Port(), g.client.Port())
				}
			})
		}
	}
	hairpin(t, ns)
}

// hairpin checks that an application reaches itself at its pod's address and through
// its service, and sees what it would see without the sidecar: kube-proxy masquerades
// the latter.
func hairpin(t *testing.T, ns *namespace) {
	t.Helper()
	var masqueraded [2]netip.Addr
	for _, name := range []string{"plain", "nat", "tproxy"} {
		for _, kind := range []string{"pod/", "service/"} {
			for i, ip := range ns.addrs(kind + name) {
				target := net.JoinHostPort(ip.String(), "8080")
				g := dial(ns, name, []string{target})[target]
				if g.err != "" {
					t.Errorf("%s to itself at %s: %s", name, target, g.err)
				}
				want := g.client.Addr()
				if kind == "service/" {
					if name == "plain" {
						masqueraded[i] = g.seen.Addr()
					}
					want = masqueraded[i]
				}
				if g.seen.Addr() != want {
					t.Errorf("%s to itself at %s: it saw %s, want %s", name, target, g.seen.Addr(), want)
				}
			}
		}
	}
}

// dial dials the targets from a pod's network or a node's.
func dial(ns *namespace, client string, targets []string) map[string]greeting {
	ns.t.Helper()
	box := append([]string{binDir + "/box", "dial"}, targets...)
	node, ok := map[string]int{"outside": 0, "node1": 1, "node2": 2}[client]
	if !ok {
		var pid string
		node, pid = ns.process(client, "/box")
		box = append([]string{"nsenter", "-t", pid, "-n"}, box...)
	}
	return greetings(client, onNodeRun(ns.t, node, box...))
}

// service is a service of both families in front of the pods labelled app;
// more are further fields of its spec.
func service(name, app, more string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s}\n"+
		"spec: {ipFamilyPolicy: RequireDualStack, selector: {app: %s}, ports: [{port: 8080}]%s}", name, app, more)
}
