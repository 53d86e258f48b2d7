package main

import (
	"fmt"
	"net"
	"testing"
	"time"
)

// squeeze sets the limit of the memory of a process' container to what the container has
// ($1 is the process): the kernel takes back what it can, and with the next page it
// kills the process. In cgroup v1 the limit cannot be set while the kernel finds nothing.
const squeeze = `p=$(sed -n 's/^[0-9]*:memory://p; s/^0:://p' /proc/$1/cgroup | head -n1) || exit 0
	cd /sys/fs/cgroup/memory$p 2>/dev/null || cd /sys/fs/cgroup$p || exit 0
	[ ! -f memory.max ] || cat memory.current > memory.max
	[ ! -f memory.limit_in_bytes ] || cat memory.usage_in_bytes > memory.limit_in_bytes 2>/dev/null || true`

// TestOutOfMemory: the memory of the sidecar's container is used up, so that the kernel
// kills the sidecar, and the kubelet starts it again. Clients who connect all the time are
// seen as themselves or not at all; the application goes on.
func TestOutOfMemory(t *testing.T) {
	t.Parallel()
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			ns := newNamespace(t)
			p := server("web", 1, mode)
			ns.apply(p.yaml(t))
			ns.ready("web")
			reaches(t, ns, "node2", "web")
			var targets []string
			for _, ip := range ns.addrs("pod/web") {
				for range 20 {
					targets = append(targets, net.JoinHostPort(ip.String(), "8080"))
				}
			}
			_, pid := ns.process("web", "/tproxy-proxy")
			served, lost := 0, 0
			await(t, 3*time.Minute, "the end of the sidecar", func() error {
				onNodeRun(t, 1, "sh", "-c", squeeze, "sh", pid)
				for _, g := range dial(ns, "node2", targets) {
					if g.err != "" {
						lost++
						continue
					}
					if served++; g.seen.Addr() != g.client.Addr() {
						t.Errorf("the application saw %s, the client is %s", g.seen, g.client)
					}
				}
				if n := ns.restarts("web"); n == 0 {
					return fmt.Errorf("restarted %d times", n)
				}
				return nil
			})
			t.Logf("%d connections were served, %d were not", served, lost)
			state := ns.kubectl("get", "pod", "web", "-o", "jsonpath={.status.initContainerStatuses[0].lastState.terminated.reason} {.status.containerStatuses[0].restartCount}")
			if state != "OOMKilled 0" {
				t.Errorf("the sidecar's end, the application's restarts: %s, want OOMKilled 0", state)
			}
			ns.ready("web")
			reaches(t, ns, "node2", "web")
		})
	}
}
