package main

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
)

// TestProxies applies two of the recipes of k8s/proxies unchanged: HAProxy, and hitch
// with our sidecar as its helper. Debian's programs take the places of the images, under
// the names that the manifests have.
func TestProxies(t *testing.T) {
	t.Parallel()
	recipes := []struct {
		dir, image, program, scheme string
		port                        bool // is the client's
	}{
		{"haproxy-tcp", "docker.io/library/haproxy:3.2", "/usr/sbin/haproxy", "http", false},
		{"hitch-helper", "docker.io/library/hitch:1.8", "/usr/sbin/hitch", "https", true},
	}
	key, cert := t.TempDir()+"/tls.key", t.TempDir()+"/tls.crt"
	if out, err := exec.Command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
		"-subj", "/CN=echo", "-days", "2", "-keyout", key, "-out", cert).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, r := range recipes {
		files, err := withLibraries(map[string]string{}, r.program)
		if err != nil {
			t.Fatal(err)
		}
		if err := load([]image{{r.image, []string{r.program}, files}}, nil); err != nil {
			t.Fatal(err)
		}
		ns, dir := &namespace{t, "demo-" + r.dir}, "../../k8s/proxies/"+r.dir
		ns.awaitGone()
		ns.kubectl("apply", "-k", dir)
		ns.kubectl("create", "secret", "tls", "proxy-tls", "--cert", cert, "--key", key)
		t.Cleanup(func() {
			if t.Failed() {
				ns.explain()
			}
			_, _ = ns.try("delete", "-k", dir, "--wait=false")
		})
	}
	for _, r := range recipes {
		ns := &namespace{t, "demo-" + r.dir}
		ns.kubectl("rollout", "status", "deployment/echo", "--timeout=240s")
		pod := ns.kubectl("get", "pods", "-l", "app=echo", "-o", "jsonpath=pod/{.items[0].metadata.name}")
		for _, ip := range ns.addrs(pod) {
			url := fmt.Sprintf("%s://%s/", r.scheme, net.JoinHostPort(ip.String(), "8080"))
			out := onNodeRun(t, 2, "curl", "-sSk", "--max-time", "20", "-w", " %{local_ip} %{local_port}", url)
			f := strings.Fields(out)
			if len(f) < 3 {
				t.Fatalf("%s: %s", r.dir, out)
			}
			client := net.JoinHostPort(f[len(f)-2], f[len(f)-1])
			_, peer, _ := strings.Cut(out, "peer=")
			seen, err := netip.ParseAddrPort(strings.Fields(peer + " ")[0])
			if err != nil || seen.Addr().String() != f[len(f)-2] || r.port && seen.String() != client {
				t.Errorf("%s: the echo-server saw %v, the client is %s: %v", r.dir, seen, client, err)
			}
		}
	}
}
