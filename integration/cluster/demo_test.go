package main

import (
	"net"
	"net/netip"
	"strings"
	"testing"
)

// TestDemos applies the demos of k8s/ unchanged, in their own namespaces with the Pod
// Security levels that they set. Node 2 takes the place of the curl image, which comes
// from a registry.
func TestDemos(t *testing.T) {
	t.Parallel()
	kinds := []string{"nat", "tproxy", "init"}
	for _, kind := range kinds {
		demo, file := &namespace{t, "demo-" + kind}, "../../k8s/deploy-"+kind+".yaml"
		demo.awaitGone()
		demo.kubectl("apply", "-f", file)
		t.Cleanup(func() {
			if t.Failed() {
				demo.explain()
			}
			_, _ = demo.try("delete", "-f", file, "--wait=false")
		})
	}
	for _, kind := range kinds {
		demo := &namespace{t, "demo-" + kind}
		demo.kubectl("rollout", "status", "deployment/echo", "--timeout=240s")
		pod := demo.kubectl("get", "pods", "-l", "app=echo", "-o", "jsonpath=pod/{.items[0].metadata.name}")
		for _, ip := range demo.addrs(pod) {
			out := onNodeRun(t, 2, binDir+"/box", "dial", net.JoinHostPort(ip.String(), "3000"))
			f := strings.Fields(out)
			if len(f) != 4 {
				t.Fatalf("%s: %s", kind, out)
			}
			client, seen := netip.MustParseAddrPort(f[1]), netip.MustParseAddrPort(strings.TrimPrefix(f[2], "peer="))
			if seen.Addr() != client.Addr() || kind != "tproxy" && seen.Port() != client.Port() {
				t.Errorf("%s: the echo-server saw %s, the client is %s", kind, seen, client)
			}
		}
	}
}
