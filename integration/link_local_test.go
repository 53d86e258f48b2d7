package integration

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestLinkLocalClient: a neighbour with a link-local address is never shown with another
// address: it is refused, with the sidecar up or down, or connects directly where it is
// excluded. The kubelet's probe of such an address is answered.
func TestLinkLocalClient(t *testing.T) {
	lab.Need(t, "curl")
	for name, excluded := range map[string]bool{"intercepted": false, "excluded": true} {
		t.Run(name, func(t *testing.T) {
			s := setup{}
			if excluded {
				s.annotations = map[string]string{"exclude-source-cidrs": "fe80::/10"}
			}
			inModes(t, s, func(t *testing.T, p *pod) {
				p.nginx(t)
				link := p.nodeLink()
				neighbour := end{p.Node, linkLocalOf(t, p.Node, link) + "%" + link}
				local := linkLocalOf(t, p.Pod, "eth0") + "%" + link
				p.Node.Run("curl", "-sSfg", "http://"+addr(strings.Replace(local, "%", "%25", 1), contract.AdminPort)+"/healthz")
				check := func() {
					t.Helper()
					for _, to := range []string{local, v6.pod} {
						if excluded {
							wantItself(t, neighbour, addr(to, webPort))
						} else {
							wantRefused(t, neighbour, addr(to, webPort))
						}
					}
				}
				check()
				p.sidecar.Kill()
				check()
			})
		})
	}
}

// wantItself checks that the application sees the client's own address.
func wantItself(t *testing.T, from end, to string) {
	t.Helper()
	conn, err := from.ns.Dial("tcp", from.ip, to)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	saw, err := ask(conn)
	me := conn.LocalAddr().(*net.TCPAddr).AddrPort()
	if want := netip.AddrPortFrom(me.Addr().WithZone(""), me.Port()).String(); err != nil || saw != want {
		t.Errorf("%s is seen as %s (%v)", want, saw, err)
	}
}

// linkLocalOf is the link-local address of an interface.
func linkLocalOf(t *testing.T, ns *lab.NS, link string) string {
	t.Helper()
	f := strings.Fields(ns.Run("ip", "-6", "-br", "addr", "show", "dev", link, "scope", "link"))
	if len(f) < 3 {
		t.Fatalf("no link-local address on %s: %v", link, f)
	}
	ip, _, _ := strings.Cut(f[2], "/")
	return ip
}
