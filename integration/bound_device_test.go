package integration

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// TestDevice: clients reach applications whose listener is bound to eth0, although the
// sidecar's connection to them arrives on lo.
func TestDevice(t *testing.T) {
	lab.Need(t, "socat", "haproxy")
	const told = 9001
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		conf := write(t, filepath.Join(dir(t, appUID), "haproxy.cfg"), fmt.Sprintf(`
defaults
	mode http
	timeout client 1m
	timeout server 1m
	timeout connect 1m
frontend web
	bind 0.0.0.0:%[1]d interface eth0
	bind [::]:%[1]d v6only interface eth0
	http-request return status 200 content-type text/plain lf-string "%%[src] %%[src_port]\n"
`, webPort))
		p.Pod.StartAs(app, "env", "-C", "/", "haproxy", "-db", "-f", conf).WaitListen(webPort)
		p.inFamilies(t, func(t *testing.T, f family) {
			p.wantCurl(t, f)
			// The leg's accepted socket is bound to eth0, like the listener.
			conn := p.dial(t, f, webPort)
			p.wantSeen(t, p.askOn(t, conn), conn.LocalAddr().String())
			if out := p.Pod.Run("ss", "-Htn", "state", "established", "sport", "=", fmt.Sprint(":", webPort)); !strings.Contains(out, "%eth0") {
				t.Errorf("no socket bound to eth0:\n%s", out)
			}

			listen := map[family]string{v4: "TCP4-LISTEN:%d", v6: "TCP6-LISTEN:%d"}[f]
			server := p.Pod.StartAs(app, "socat", fmt.Sprintf(listen, told)+",fork,reuseaddr,so-bindtodevice=eth0",
				`SYSTEM:echo $SOCAT_PEERADDR $SOCAT_PEERPORT`).WaitListen(told)
			defer server.Kill()
			p.wantTold(t, f, told)
		})
		// An application bound to lo is not reachable from outside.
		p.Pod.StartAs(app, "socat", fmt.Sprintf("TCP6-LISTEN:%d,fork,reuseaddr,so-bindtodevice=lo", told+1), "SYSTEM:echo no").WaitListen(told + 1)
		for _, f := range p.fams() {
			wantRefused(t, end{p.Client, f.client}, addr(f.pod, told+1))
		}
	})
}
