package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"

	"github.com/tproxy-cni/tproxy-cni/internal/adminhttp"
	"github.com/tproxy-cni/tproxy-cni/proxy/metrics"
	"github.com/tproxy-cni/tproxy-cni/proxy/report"
)

// adminServer answers the kubelet and Prometheus:
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
func (p *proxy) adminServer(ln *net.TCPListener) *adminhttp.Server {
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
	mux.Handle("/log-level", adminhttp.FromLoopback(adminhttp.NamedLoopback(logLevel(p.log, p.level))))
	return adminhttp.New(p.log, ln, mux)
}

// serveAdmin serves the admin port until ctx ends.
func (p *proxy) serveAdmin(ctx context.Context) {
	if err := p.adminPort.Serve(ctx); err != nil {
		p.log.Error("cannot serve the admin port", "err", err)
	}
}

func notReady(r readiness) string {
	text := "not ready: " + r.Text
	if r.Cure != "" {
		text += "\nwhat to do: " + r.Cure
	}
	return text
}
