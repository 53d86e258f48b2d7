package main

import (
	"fmt"
	"strings"
	"testing"
)

// TestPodSecurity runs each mode in a namespace that enforces the Pod Security level
// documented for it, and reads the sidecar's capabilities on the node.
func TestPodSecurity(t *testing.T) {
	t.Parallel()
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
			ns := newNamespace(t, "pod-security.kubernetes.io/enforce: "+c.level)
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

// TestRefusedByPodSecurity: a namespace that enforces restricted refuses tproxy mode,
// which needs NET_RAW. This is documented, and the error says so.
func TestRefusedByPodSecurity(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t, "pod-security.kubernetes.io/enforce: restricted")
	_, err := ns.input(server("server", 1, "tproxy").yaml(t), "apply", "-f", "-")
	if err == nil || !strings.Contains(err.Error(), "violates PodSecurity") {
		t.Fatalf("got %v, want a violation of PodSecurity", err)
	}
}

// sidecarStatus is /proc/PID/status of the sidecar, read on its node.
func sidecarStatus(t *testing.T, ns *namespace, pod string) map[string]string {
	t.Helper()
	node, pid := ns.process(pod, "/tproxy-proxy")
	status := map[string]string{}
	for line := range strings.Lines(onNodeRun(t, node, "cat", "/proc/"+pid+"/status")) {
		if f := strings.Fields(line); len(f) > 1 {
			status[strings.TrimSuffix(f[0], ":")] = f[1]
		}
	}
	return status
}
