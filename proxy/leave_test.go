package main

import (
	"log/slog"
	"net"
	"net/http"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/internal/adminhttp"
)

// TestLeaveUnserved: a sidecar whose admin port has failed drains, and does not wait for it.
func TestLeaveUnserved(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	log := slog.New(slog.DiscardHandler)
	p := &proxy{log: log, adminPort: adminhttp.New(log, ln.(*net.TCPListener), http.NotFoundHandler())}
	p.leave("/nowhere/hold.sock")
}
