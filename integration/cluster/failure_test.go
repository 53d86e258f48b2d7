package main

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestBadAnnotation: a pod with a setting that makes no sense does not start,
// and kubectl describe shows the plugin's message in full.
func TestBadAnnotation(t *testing.T) {
	for annotation, want := range map[string]string{
		`tproxy-cni.io/proxy-port: "70000"`: `annotation tproxy-cni.io/proxy-port "70000": "70000" is no port (want 1-65535)`,
		`tproxy-cni.io/include-inbound-ports: 80-x`: `annotation tproxy-cni.io/include-inbound-ports "80-x": "x" is no port ` +
			`(want ports and ranges of 1-65535, such as 80,8000-8099)`,
		`tproxy-cni.io/proxy-prot: "5000"`: `annotation tproxy-cni.io/proxy-prot "5000": unknown ` +
			`(want mode, proxy-port, proxy-uid, admin-port, include-inbound-ports, exclude-inbound-ports, exclude-source-cidrs)`,
	} {
		name, _, _ := strings.Cut(strings.TrimPrefix(annotation, "tproxy-cni.io/"), ":")
		t.Run(name, func(t *testing.T) {
			ns := newNamespace(t)
			p := server("server", 1, "nat")
			p.annotations = []string{annotation}
			ns.apply(p.yaml(t))
			await(t, time.Minute, "the plugin's message", func() error {
				out := ns.kubectl("describe", "pod", "server")
				if !strings.Contains(out, "FailedCreatePodSandBox") || !strings.Contains(out, want) {
					return fmt.Errorf("no %q in\n%s", want, out)
				}
				t.Log(out[strings.Index(out, "Events:"):])
				return nil
			})
			if phase := ns.kubectl("get", "pod", "server", "-o", "jsonpath={.status.phase}"); phase != "Pending" {
				t.Errorf("the pod is %s, want Pending", phase)
			}
		})
	}
}
