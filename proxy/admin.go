package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"

	"github.com/tproxy-cni/tproxy-cni/internal/adminhttp"
	"github.com/tproxy-cni/tproxy-cni/proxy/metrics"
	"github.com/tproxy-cni/tproxy-cni/proxy/report"
)

// serveAdmin answers the kubelet and Prometheus until ctx ends:
//
//	/healthz  200 while the process runs
//	/readyz   200 while new connections are accepted, the pod is prepared and there
//	          are ports for clients, otherwise 503 with the reason
//	/metrics  for Prometheus
//
// and within the pod, also to its commands and to the page of package report:
//
//	/, /status  the page, and the document
//	/log-level
func serveAdmin(ctx context.Context, log *slog.Logger, level *slog.LevelVar, ln *net.TCPListener, p *proxy) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "alive")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		now := p.status.readiness()
		if !now.Ready {
			http.Error(w, notReady(now), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintf(w, "ready: %s mode on %s\nconnections: %d of %d\npacket guard: %s\n", p.pod.Mode, p.pod.Addr, p.places.taken.Load(), p.places.limit,
			cmp.Or(string(now.Guard), "unknown"))
	})
	mux.Handle("GET /metrics", metrics.Handler(p.state))
	report.Register(mux, p.document)
	mux.Handle("/log-level", adminhttp.FromLoopback(adminhttp.NamedLoopback(logLevel(log, level))))
	if err := adminhttp.Serve(ctx, log, ln, mux); err != nil {
		log.Error("cannot serve the admin port", "err", err)
	}
}

func notReady(r readiness) string {
	text := "not ready: " + r.Text
	if r.Cure != "" {
		text += "\nwhat to do: " + r.Cure
	}
	return text
}
