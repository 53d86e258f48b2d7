package main

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/adminhttp"
	"github.com/tproxy-cni/tproxy-cni/proxy/handover"
)

// TestLeaveUnserved: a sidecar whose admin port has failed drains, and does not wait for it.
func TestLeaveUnserved(t *testing.T) {
	unserved(t).leave("/nowhere/hold.sock")
}

// TestBecomeUnserved: nor does one that is to hand over, which goes on then.
func TestBecomeUnserved(t *testing.T) {
	p := unserved(t)
	failed := make(chan error, 1)
	go func() { failed <- p.become(t.Context(), handover.Program{}) }()
	select {
	case err := <-failed:
		if !errors.Is(err, errUnserved) {
			t.Errorf("%v, want %v", err, errUnserved)
		}
	case <-time.After(lab.Patience):
		t.Error("it waits for ever")
	}
}

// unserved is a sidecar whose admin port nobody serves.
func unserved(t *testing.T) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	log := slog.New(slog.DiscardHandler)
	return &proxy{log: log, adminPort: adminhttp.New(log, ln.(*net.TCPListener), http.NotFoundHandler())}
}
