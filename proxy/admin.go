package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

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
		fmt.Fprintf(w, "ready: %s mode on %s\n", p.dialer.mode, p.ln.Addr())
	})
	s := &http.Server{
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
