package intercept

import (
	"testing"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestInForce: the settings that rules were made with can be read from them; what no
// rule says is as it was asked for.
func TestInForce(t *testing.T) {
	for name, c := range goldens(t) {
		t.Run(name, func(t *testing.T) {
			pod := newPod(t)
			asked := usual(t, contract.ModeNAT)
			if c.Mode == contract.ModeNAT {
				asked.Mode = contract.ModeTProxy
			}
			asked.ProxyPort, asked.AdminPort, asked.ProxyUID = 1, 2, 3
			if got, err := InForce(pod.Path(), asked); err != nil || got.Mode != asked.Mode || got.ProxyUID != 3 {
				t.Errorf("nothing is programmed: %+v %v", got, err)
			}
			apply(t, pod, c)
			got, err := InForce(pod.Path(), asked)
			if err != nil || got.Mode != c.Mode || got.ProxyPort != c.ProxyPort || got.AdminPort != c.AdminPort || got.ProxyUID != c.ProxyUID {
				t.Errorf("%+v %v, want %+v", got, err, c)
			}
			pod.Run("nft", "flush", "chain", "inet", "tproxy_cni", "loopback")
			pod.Run("nft", `add rule inet tproxy_cni loopback accept comment "refuses a dial of uid 0 to its own port"`)
			if got, err := InForce(pod.Path(), asked); err != nil || got.Mode != c.Mode || got.ProxyUID != 3 || got.ProxyPort != 1 || got.AdminPort != c.AdminPort {
				t.Errorf("without the rule that names the uid: %+v %v", got, err)
			}
		})
	}
}
