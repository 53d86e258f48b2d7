package integration

import (
	"testing"
)

// podPort is where an application listens on the pod's addresses alone.
const podPort = 8081

// TestFailClosed: without a sidecar a connection is refused, wherever the
// application listens and whether or not the kernel uses SYN cookies; with one
// it arrives, again also after the sidecar was killed.
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

// TestProbe: where the application does not listen, a client on the node, as
// the kubelet is, and a distant one are refused although the sidecar listens.
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
