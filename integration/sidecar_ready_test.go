package integration

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestSlippedPast: a sidecar in a pod that the plugin did not program is alive but not
// ready, and its answer says what to do.
func TestSlippedPast(t *testing.T) {
	for _, mode := range []string{contract.ModeNAT, contract.ModeTProxy} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			p := newPod(t, setup{bare: true})
			user := lab.User{UID: contract.ProxyUID, NoNewPrivs: true}
			if mode == contract.ModeTProxy {
				user.Caps = []string{"net_raw"}
			}
			p.sidecar = p.Pod.StartAs(user, bin(t, "tproxy-proxy"), "--mode", mode).WaitListen(contract.AdminPort)
			lab.Eventually(t, "the reason", func() error {
				body, err := p.Node.Try("curl", "-sS", "http://"+addr(v4.pod, contract.AdminPort)+"/readyz")
				if err == nil && !strings.Contains(body, "has not prepared this network namespace") {
					err = fmt.Errorf("answer %q", body)
				}
				return err
			})
			p.sidecar.WaitLog("then delete the pod")
			p.Node.Run("curl", "-sSf", "http://"+addr(v4.pod, contract.AdminPort)+"/healthz")
			if out, err := p.Node.Try("curl", "-sSf", "http://"+addr(v4.pod, contract.AdminPort)+"/readyz"); err == nil {
				t.Errorf("ready: %s", out)
			}
		})
	}
}
