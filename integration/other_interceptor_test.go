package integration

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// TestOtherInterceptor: with another interceptor's rules in the pod, as the init
// containers of istio and linkerd leave them, clients are reset, never let through,
// and CHECK names the rule; without them the pod is served again.
func TestOtherInterceptor(t *testing.T) {
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		p.nginx(t)
		for _, tt := range []struct{ name, kind, table, target, port string }{
			{"nft", "nft", "nat", "REDIRECT", "--to-ports"},
			{"legacy", "legacy", "nat", "REDIRECT", "--to-ports"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				v4Tables, v6Tables := "iptables-"+tt.kind, "ip6tables-"+tt.kind
				lab.Need(t, v4Tables, v6Tables)
				rule := func(verb string) {
					for _, program := range []string{v4Tables, v6Tables} {
						p.Pod.Run(program, "-t", tt.table, verb, "PREROUTING", "-p", "tcp", "-j", tt.target, tt.port, "15006")
					}
				}
				rule("-A")
				p.inFamilies(t, func(t *testing.T, f family) {
					conn, err := p.Client.Dial("tcp", f.client, addr(f.pod, webPort))
					if err == nil {
						conn.Close()
					}
					if !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ECONNRESET) {
						t.Errorf("a client: %v, want a reset", err)
					}
				})
				if out, err := p.cni("check"); err == nil || !strings.Contains(out, "15006, as istio does") {
					t.Errorf("check says %v %s", err, out)
				}
				rule("-D")
				p.mustCNI("check")
				p.inFamilies(t, p.wantExact)
			})
		}
	})
}
