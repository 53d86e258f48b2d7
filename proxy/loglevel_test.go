package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
)

// command runs a command of the sidecar's image in the pod, as kubectl exec does.
func (p *pod) command(args ...string) (string, error) {
	return p.Pod.TryAs(lab.User{UID: contract.ProxyUID, NoNewPrivs: true}, sidecarCommand(p.t, args...)...)
}

// TestLogLevel: the level changes while the sidecar runs, from within the pod only,
// whichever address the admin port has.
func TestLogLevel(t *testing.T) {
	lab.Need(t, "curl")
	for admin, host := range map[string]string{":5001": lab.Pod4, "127.0.0.1:5001": "", lab.Pod4 + ":5001": lab.Pod4, "[" + lab.Pod6 + "]:5001": "[" + lab.Pod6 + "]"} {
		t.Run(admin, func(t *testing.T) {
			p := prepared(t, contract.ModeNAT)
			p.start("--admin", admin)
			p.sidecar.WaitLog("ready: ")
			level := func(args ...string) string {
				out, err := p.command(append([]string{"log-level"}, append(args, "--admin", admin)...)...)
				if err != nil {
					t.Errorf("log-level %q: %v: %s", args, err, out)
				}
				return strings.TrimSpace(out)
			}
			wantLog := func(want bool) {
				t.Helper()
				client, application := p.pair(t, ip4)
				say(t, client, application, "hello")
				move(t, client, application, 0)
				move(t, application, client, 0)
				accepted := fmt.Sprintf("level=DEBUG msg=accepted client=%s ", client.LocalAddr())
				p.wantEnd(t, sock.AddrPort(client.LocalAddr()), "closed")
				if got := strings.Contains(p.sidecar.Output(), accepted); got != want {
					t.Errorf("debug lines: %v, want %v:\n%s", got, want, p.sidecar.Output())
				}
			}
			if got := level(); got != "info" {
				t.Errorf("level %q", got)
			}
			wantLog(false)
			level("debug")
			if got := level(); got != "debug" {
				t.Errorf("level %q", got)
			}
			p.sidecar.WaitLog(`level=WARN msg="log level changed" from=INFO to=DEBUG`)
			wantLog(true)
			level("info")
			wantLog(false)
			if host == "" {
				return
			}
			out := p.Node.Run("curl", "-sS", "-X", "PUT", "http://"+host+":5001/log-level?level=debug", "-w", "%{http_code}")
			if !strings.HasSuffix(out, "403") || level() != "info" {
				t.Errorf("from outside of the pod: %s", out)
			}
		})
	}
}

// TestCommandFaults: what a script sees of a command that cannot do its work.
func TestCommandFaults(t *testing.T) {
	for _, tt := range []struct {
		args   string
		status int
		stderr string
	}{
		{"log-level loud", 2, `tproxy-proxy log-level: "loud": want debug, info, warn or error`},
		{"log-level debug info", 2, `unexpected argument "info"`},
		{"log-level --admin x", 2, `--admin "x": want`},
		{"log-level --admin 127.0.0.1:1", 1, "the sidecar does not answer on 127.0.0.1:1: "},
	} {
		var stdout, stderr strings.Builder
		status := run(strings.Fields(tt.args), func(string) string { return "" }, &stdout, &stderr)
		if status != tt.status || !strings.Contains(stderr.String(), tt.stderr) || stdout.Len() > 0 {
			t.Errorf("%s: status %d, %s%s", tt.args, status, stdout.String(), stderr.String())
		}
	}
}
