package adminhttp

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestFromLoopback: no address but a loopback one of either family gets to h.
func TestFromLoopback(t *testing.T) {
	for client, want := range map[string]int{
		"127.0.0.1:1":          http.StatusTeapot,
		"127.9.9.9:1":          http.StatusTeapot,
		"[::1]:1":              http.StatusTeapot,
		"[::ffff:127.0.0.1]:1": http.StatusTeapot, // a listener of both families
		"192.0.2.1:1":          http.StatusForbidden,
		"[2001:db8::1]:1":      http.StatusForbidden,
		"[::ffff:192.0.2.1]:1": http.StatusForbidden,
		"[::ffff:0:0]:1":       http.StatusForbidden,
		"[fe80::1%lo]:1":       http.StatusForbidden,
		"":                     http.StatusForbidden,
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = client
		w := httptest.NewRecorder()
		FromLoopback(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })).ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("client %q: %d, want %d", client, w.Code, want)
		}
	}
}
