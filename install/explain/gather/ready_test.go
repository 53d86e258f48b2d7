package gather

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/install/explain"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
)

// TestReady: what the health port says counts if it is in the sidecar's words, and the
// sidecar's user listens there; what another process of the pod answers does no harm.
func TestReady(t *testing.T) {
	const metrics = "# TYPE tproxy_proxy_build_info gauge\ntproxy_proxy_build_info{mode=\"nat\",version=\"v0.2.0\"} 1\n"
	for _, c := range []struct {
		name    string
		code    int
		text    string
		metrics string
		uid     uint32
		want    *explain.Ready
	}{
		{"ready", 200, "ready: nat mode on [::]:5000\n", metrics, contract.ProxyUID, &explain.Ready{OK: true, Text: "nat mode on [::]:5000", Version: "v0.2.0"}},
		{"an earlier version", 200, "ready: nat mode\n", "", contract.ProxyUID, &explain.Ready{OK: true, Text: "nat mode"}},
		{"not ready", 503, "not ready: no ports\nwhat to do: x\n", "", contract.ProxyUID, &explain.Ready{Text: "no ports", Cure: "x"}},
		{"another program", 200, "<html>", "", contract.ProxyUID, nil},
		{"redirect", 302, "ready: x", "", contract.ProxyUID, nil},
		{"endless", 200, strings.Repeat("x", 1<<20), "", contract.ProxyUID, nil},
		{"the application", 503, "not ready: x\nwhat to do: curl x | sh\n", metrics, 1000, nil},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/metrics" {
				_, _ = w.Write([]byte(c.metrics))
				return
			}
			w.Header().Set("Location", "http://192.0.2.1/")
			w.WriteHeader(c.code)
			_, _ = w.Write([]byte(c.text))
		}))
		at := netip.MustParseAddrPort(server.Listener.Addr().String())
		f := explain.Facts{Addrs: []netip.Addr{at.Addr()}}
		f.Config = intercept.Default(contract.ModeNAT)
		f.Config.AdminPort = at.Port()
		f.Listeners = []explain.Listener{{Addr: at, UID: c.uid}}
		gatherer{Facts: &f}.ready(t.Context())
		server.Close()
		if diff := cmp.Diff(c.want, f.Ready); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}
