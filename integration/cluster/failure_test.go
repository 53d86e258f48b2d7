package main

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestBadAnnotation: a pod with an invalid setting does not start, and kubectl
// describe shows the plugin's whole message.
func TestBadAnnotation(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	faults := map[string]string{
		`tproxy-cni.io/proxy-port: "70000"`: `annotation tproxy-cni.io/proxy-port "70000": "70000" is not a port (want 1-65535)`,
		`tproxy-cni.io/include-inbound-ports: 80-x`: `annotation tproxy-cni.io/include-inbound-ports "80-x": "x" is not a port ` +
			`(want ports and ranges of 1-65535, such as 80,8000-8099)`,
		`tproxy-cni.io/proxy-prot: "5000"`: `annotation tproxy-cni.io/proxy-prot "5000": unknown ` +
			`(want mode, proxy-port, proxy-uid, admin-port, include-inbound-ports, exclude-inbound-ports, exclude-source-cidrs, packet-guard, proxy-protocol-from, proxy-protocol-ports)`,
	}
	want := map[string]string{}
	var objects []string
	for annotation, message := range faults {
		p := server(fmt.Sprintf("server-%d", len(want)), 1, "nat")
		p.annotations = []string{annotation}
		objects, want[p.name] = append(objects, p.yaml(t)), message
	}
	ns.apply(objects...)
	for name, message := range want {
		await(t, 3*time.Minute, "the plugin's message", func() error {
			out := ns.kubectl("describe", "pod", name)
			if !strings.Contains(out, "FailedCreatePodSandBox") || !strings.Contains(out, message) {
				return fmt.Errorf("no %q in\n%s", message, out)
			}
			return nil
		})
		if phase := ns.kubectl("get", "pod", name, "-o", "jsonpath={.status.phase}"); phase != "Pending" {
			t.Errorf("%s is %s, want Pending", name, phase)
		}
	}
}
