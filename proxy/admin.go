package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// maxAdmin is how many connections the admin port has at once. Anybody in the
// cluster can open one, and descriptors are for others.
const maxAdmin = 32

// serveAdmin answers the kubelet until ctx ends:
//
//	/healthz  200 while the process lives
//	/readyz   200 while new connections are accepted and the pod is prepared,
//	          503 with the reason otherwise
func serveAdmin(ctx context.Context, log *slog.Logger, ln net.Listener, p *proxy) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "alive")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := p.status.get(); err != nil {
			http.Error(w, fmt.Sprintf("not ready: %v", err), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintf(w, "ready: %s mode on %s\n", p.mode, p.addr)
	})
	var open atomic.Int32
	s := &http.Server{
		ConnState: func(c net.Conn, s http.ConnState) {
			switch s {
			case http.StateNew:
				if open.Add(1) > maxAdmin {
					c.Close()
				}
			case http.StateClosed, http.StateHijacked:
				open.Add(-1)
			}
		},
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	defer context.AfterFunc(ctx, func() { s.Close() })()
	if err := s.Serve(ln); err != http.ErrServerClosed {
		log.Error("admin", "err", err)
	}
}
