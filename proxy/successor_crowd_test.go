package main

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
)

// TestHandOverCrowded: clients that wait for a place, because their source has most of
// them, go on waiting in the program that takes over, and are served in turn.
func TestHandOverCrowded(t *testing.T) {
	lab.Need(t, "prlimit")
	const files = 740
	places := connsFor(files) - int(reservedOf(int64(connsFor(files))))
	p := prepared(t, contract.ModeTProxy)
	limit := fmt.Sprintf("--nofile=%d:%[1]d", files)
	p.run(p.user(), append([]string{"prlimit", limit}, sidecarCommand(t, "--mode", p.mode)...))
	p.sidecar.WaitListen(contract.ProxyPort, contract.AdminPort)
	p.waitReady()
	a := p.listen(t, 0)
	var served []*net.TCPConn
	for range places {
		served = append(served, p.dial(t, ip6, a.port))
		a.accept(t)
	}
	var waiting []*net.TCPConn
	for range 3 {
		waiting = append(waiting, p.dial(t, ip6, a.port))
	}
	lab.Eventually(t, "all are accepted", func() error {
		if _, body := p.admin("/readyz"); !strings.Contains(body, fmt.Sprintf("connections: %d of", places+3)) {
			return fmt.Errorf("%s", body)
		}
		return nil
	})
	p.handOver(t)
	p.handOver(t)
	for i, c := range waiting {
		sock.Reset(served[i])
		say(t, patient(t, c), a.accept(t), "my turn")
	}
}
