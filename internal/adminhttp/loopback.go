package adminhttp

import (
	"net/http"
	"net/netip"
)

// FromLoopback gives h only the requests of clients within the pod, those with an
// address of 127.0.0.0/8 or ::1. The kernel takes no packet with such a source from
// the network. All others get 403. Which container of the pod asks it cannot tell.
func FromLoopback(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		client, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil || !client.Addr().Unmap().IsLoopback() {
			http.Error(w, "only from within the pod, by a loopback address", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}
