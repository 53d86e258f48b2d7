package adminhttp

import (
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// NamedLoopback gives h only the requests whose Host is localhost or a loopback
// address, with any port. A browser on a machine that forwards a port to the pod puts
// there what stands in its address bar: without this check any web site could have its
// own name resolve to 127.0.0.1 (DNS rebinding) and read the answers. All others get
// 403.
func NamedLoopback(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isLoopbackName(r.Host) {
			http.Error(w, "only by the name localhost, or by a loopback address", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func isLoopbackName(host string) bool {
	u, err := url.Parse("http://" + host)
	if err != nil || u.Host != host {
		return false
	}
	if strings.EqualFold(u.Hostname(), "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(u.Hostname())
	return err == nil && addr.Unmap().IsLoopback()
}
