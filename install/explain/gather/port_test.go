package gather

import (
	"net/netip"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/install/explain"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
)

// TestChoosePort: a listener that the sidecar opens for a moment, to check the pod, is not
// taken for the application, also where that is not intercepted.
func TestChoosePort(t *testing.T) {
	for _, pod := range []string{"10.244.1.7", "fd00:244:1::7"} {
		on := func(port uint16, uid uint32) explain.Listener {
			return explain.Listener{Addr: netip.AddrPortFrom(netip.MustParseAddr(pod), port), UID: uid}
		}
		f := explain.Facts{Config: intercept.Default(contract.ModeNAT)}
		f.Config.ExcludePorts = []intercept.PortRange{{Low: 8080, High: 8080}}
		f.Listeners = []explain.Listener{
			on(5000, contract.ProxyUID), on(5001, contract.ProxyUID), on(8080, 0), on(40541, contract.ProxyUID),
		}
		gatherer{Facts: &f}.choosePort()
		if f.Port != 8080 || len(f.Application()) != 1 {
			t.Errorf("port %d, applications %v", f.Port, f.Application())
		}
		if r := explain.New(f); r.Listeners[3].Role != "sidecar" {
			t.Errorf("%+v", r.Listeners[3])
		}
	}
}
