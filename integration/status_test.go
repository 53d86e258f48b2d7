package integration

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestStatusIsPrivate: what the sidecar tells of its clients it tells within the pod
// only, to a loopback address and by a loopback name. A forged one does not arrive.
func TestStatusIsPrivate(t *testing.T) {
	lab.Need(t, "curl")
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		link, lo := newCapture(t, p.Node, p.nodeLink()), newCapture(t, p.Pod, "lo")
		p.inFamilies(t, func(t *testing.T, f family) {
			status := func(ns *lab.NS, host, path string, args ...string) string {
				args = append([]string{"curl", "-sS", "--max-time", "20", "-o", "/dev/null", "-w", "%{http_code}"}, args...)
				return ns.Run(append(args, "http://"+addr(host, contract.AdminPort)+path)...)
			}
			for _, path := range []string{"/", "/live.js", "/live.css", "/status"} {
				for _, tt := range []struct {
					who, got, want string
				}{
					{"another host", status(p.Client, f.pod, path), "403"},
					{"the node", status(p.Node, f.pod, path), "403"},
					{"another host, as localhost", status(p.Client, f.pod, path, "-H", "Host: localhost"), "403"},
					{"another host, as a proxy", status(p.Client, f.pod, path, "-H", "X-Forwarded-For: 127.0.0.1"), "403"},
					{"the pod's own address", status(p.Pod, f.pod, path), "403"},
					{"a foreign name", status(p.Pod, f.lo, path, "-H", "Host: rebind.example"), "403"},
					{"within the pod", status(p.Pod, f.lo, path), "200"},
				} {
					if tt.got != tt.want {
						t.Errorf("%s, %s: status %s, want %s", path, tt.who, tt.got, tt.want)
					}
				}
			}
			lo.clear()
			forge, to := newForger(t, p.Node, addrOf(f.pod)), addrPort(t, addr(f.pod, contract.AdminPort))
			loopback, other := netip.AddrPortFrom(addrOf(f.lo), 4444), netip.AddrPortFrom(addrOf(f.other), 4444)
			forge.tcp(loopback, to, 1, 0, syn, nil)
			forge.tcp(other, to, 1, 0, syn, nil)
			link.wantSegment(t, "the answer to an address that is not loopback", func(s tcpSegment) bool {
				return s.src == to && s.dst == other && s.flags&syn != 0
			})
			for _, s := range lo.segments() {
				if s.src == to && s.dst == loopback {
					t.Errorf("the pod has answered a forged SYN from %s", loopback)
				}
			}
		})
	})
}

// TestStatusFinds: `kubectl exec` gives the command the container's environment, not its
// arguments. It finds the sidecar's admin port all the same.
func TestStatusFinds(t *testing.T) {
	p := newPod(t, setup{mode: contract.ModeNAT, bare: true})
	program := bin(t, "tproxy-proxy")
	user := lab.User{UID: contract.ProxyUID, NoNewPrivs: true}
	for _, tt := range []struct {
		args, env string
		admin     string // where it is
	}{
		{"", "", "[::]:5001"},
		{"--admin=:6001", "", "[::]:6001"},
		{"--admin " + addr(v4.pod, 6001), "", addr(v4.pod, 6001)},
		{"--log-format json -admin " + addr(v6.pod, 6001), "", addr(v6.pod, 6001)},
		{"", "TPROXY_ADMIN=:6001", "[::]:6001"},
	} {
		t.Run(tt.args+tt.env, func(t *testing.T) {
			env := append([]string{"env"}, strings.Fields(tt.env)...)
			sidecar := p.Pod.StartAs(user, append(append(env, program), strings.Fields(tt.args)...)...).WaitLog("listening")
			defer sidecar.Kill()
			var d struct {
				Address string `json:"admin_address"`
			}
			out, err := p.Pod.TryAs(user, append(env, program, "status", "-o", "json")...)
			if err == nil {
				err = json.Unmarshal([]byte(out), &d)
			}
			if err != nil || d.Address != tt.admin {
				t.Errorf("%v, %q, want one on %s: %.300s", err, d.Address, tt.admin, out)
			}
		})
	}
	out, err := p.Pod.TryAs(user, program, "status")
	if want := "does not answer on 127.0.0.1:"; err == nil || !strings.Contains(out, want) {
		t.Errorf("without a sidecar: %v, %s", err, out)
	}
}
