package integration

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// podPort is where an application listens on the pod's addresses only.
const podPort = 8081

// TestFailClosed: without a sidecar connections are refused, wherever the application
// listens and with or without SYN cookies; with one they are served, also after the
// sidecar was killed and restarted.
func TestFailClosed(t *testing.T) {
	inModes(t, setup{bare: true}, func(t *testing.T, p *pod) {
		p.nginx(t)
		p.nginx(t, addr(v4.pod, podPort), addr(v6.pod, podPort))
		refused := func() {
			for _, cookies := range []string{"2", "1"} {
				p.Pod.Sysctl("net.ipv4.tcp_syncookies", cookies)
				for _, f := range p.fams() {
					for _, port := range []int{webPort, podPort} {
						wantRefused(t, end{p.Client, f.client}, addr(f.pod, port))
						wantRefused(t, end{p.Node, f.gateway}, addr(f.pod, port))
					}
				}
			}
		}
		served := func() {
			for _, cookies := range []string{"2", "1"} {
				p.Pod.Sysctl("net.ipv4.tcp_syncookies", cookies)
				for _, f := range p.fams() {
					for _, port := range []int{webPort, podPort} {
						p.wantExactAt(t, f.client, addr(f.pod, port))
					}
				}
			}
		}
		refused()
		p.start()
		served()
		p.sidecar.Kill()
		refused()
		p.start()
		served()
	})
}

// TestProbeOfTheSidecar: the kubelet's tcpSocket probe of the sidecar's own port, and
// another user's from within the pod, find it; only the sidecar's user is refused.
func TestProbeOfTheSidecar(t *testing.T) {
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		before := p.counters(t)["loop_refused"] // by the sidecar's check of the rules
		for _, f := range p.fams() {
			for to, from := range map[string]end{f.pod: {p.Node, f.gateway}, f.lo: {p.Pod, f.lo}} {
				conn, err := from.ns.Dial("tcp", from.ip, addr(to, contract.ProxyPort))
				if err == nil {
					conn.Close()
				} else if !errors.Is(err, unix.ECONNRESET) { // the sidecar accepts, and resets
					t.Errorf("from %s: %v", from.ip, err)
				}
			}
			user := lab.User{UID: contract.ProxyUID}
			if _, err := p.Pod.TryAs(user, "nc", "-z", f.lo, fmt.Sprint(contract.ProxyPort)); err == nil {
				t.Errorf("the sidecar's user reaches its own port at %s", f.lo)
			}
		}
		if n := p.counters(t)["loop_refused"] - before; n != uint64(len(p.fams())) {
			t.Errorf("%d dials refused, want %d", n, len(p.fams()))
		}
	})
}

// TestProbe: on a port where the application does not listen, a client on the node,
// such as the kubelet, and one behind it are refused although the sidecar listens.
func TestProbe(t *testing.T) {
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		_, app := p.nginx(t)
		for _, f := range p.fams() {
			to := addr(f.pod, webPort)
			p.wantExactAt(t, f.client, to)
			wantRefused(t, end{p.Client, f.client}, addr(f.pod, podPort))
			wantRefused(t, end{p.Node, f.gateway}, addr(f.pod, podPort))
		}
		app.Kill()
		for _, f := range p.fams() {
			wantRefused(t, end{p.Client, f.client}, addr(f.pod, webPort))
			wantRefused(t, end{p.Node, f.gateway}, addr(f.pod, webPort))
		}
	})
}
