package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// TestServiceFlood: while 2,000 clients request the metrics again and again and
// read no answer, the kubelet and Prometheus get theirs, and the installer stays
// within its DaemonSet's memory limit (128Mi).
func TestServiceFlood(t *testing.T) {
	lab.Need(t, "curl")
	n := newTestNode(t, "10-flannel.conflist")
	s := n.start("install", "--preflight=false")
	s.want("/readyz", 200)
	where := strings.TrimPrefix(s.url, "http://")
	small := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096) })
	}}
	requests := []byte(strings.Repeat("GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n", 50))
	conns := lab.Count(2000)
	for i := range conns {
		c, err := small.Dial("tcp", where)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		t.Cleanup(func() { c.Close() })
		_, _ = c.Write(requests) // reset meanwhile, perhaps
		if i%(conns/10) > 0 {
			continue
		}
		for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
			if out, err := exec.Command("curl", "-sSf", "--max-time", "20", "--compressed", "-o", "/dev/null", s.url+path).CombinedOutput(); err != nil {
				t.Fatalf("%s beside %d others: %v: %s", path, i+1, err, out)
			}
		}
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.Process.Pid))
	must(t, err)
	for line := range strings.Lines(string(status)) {
		var kB int
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kB); err == nil {
			t.Logf("memory at most: %d kB", kB)
			if kB > 96<<10 {
				t.Errorf("the installer has had %d kB", kB)
			}
		}
	}
}
