package adminhttp

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestNamedLoopback: no name that somebody else's DNS answers for gets to h.
func TestNamedLoopback(t *testing.T) {
	for host, want := range map[string]int{
		"localhost":               http.StatusTeapot,
		"LocalHost:8080":          http.StatusTeapot,
		"127.0.0.1:5001":          http.StatusTeapot,
		"127.1.2.3":               http.StatusTeapot,
		"[::1]:5001":              http.StatusTeapot,
		"[::1]":                   http.StatusTeapot,
		"[::ffff:127.0.0.1]:1":    http.StatusTeapot,
		"":                        http.StatusForbidden,
		"evil.example:5001":       http.StatusForbidden,
		"localhost.evil.example":  http.StatusForbidden,
		"127.0.0.1.evil.example":  http.StatusForbidden,
		"evil.example@localhost":  http.StatusForbidden,
		"localhost/@evil.example": http.StatusForbidden,
		"192.0.2.1:5001":          http.StatusForbidden,
		"[2001:db8::1]:5001":      http.StatusForbidden,
		"0.0.0.0:5001":            http.StatusForbidden,
		"127.1:5001":              http.StatusForbidden, // no browser sends that
		"localhost.:5001":         http.StatusForbidden,
		"[::1":                    http.StatusForbidden,
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Host = host
		w := httptest.NewRecorder()
		NamedLoopback(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })).ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("host %q: %d, want %d", host, w.Code, want)
		}
	}
}
