package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/adminhttp"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// listenPause is before the next try to listen.
const listenPause = 5 * time.Second

// passing are the reasons why addr cannot be listened on that go by: another
// installer has the port during an upgrade, the node does not have the address yet,
// or it lacks descriptors or memory.
var passing = []error{unix.EADDRINUSE, unix.EADDRNOTAVAIL, unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM}

func passes(err error) bool {
	return slices.ContainsFunc(passing, func(p error) bool { return errors.Is(err, p) })
}

// Serve answers on addr ([ADDRESS]:PORT) until ctx ends, and then returns nil. It
// tries again what may pass, because the node can be kept right meanwhile. The error
// says that addr can never be listened on, or that the listener died.
func (s *Status) Serve(ctx context.Context, log *slog.Logger, addr string) error {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // its subflows would not count towards adminhttp's limits
	for {
		ln, err := lc.Listen(ctx, "tcp", addr)
		switch {
		case err == nil:
			log.Info("listening", "addr", ln.Addr().String())
			if err := adminhttp.Serve(ctx, log, ln.(*net.TCPListener), s.Handler(log)); err != nil {
				return fmt.Errorf("health and metrics on %s: %w", ln.Addr(), err)
			}
			return nil
		case ctx.Err() != nil:
			return nil
		case !passes(err):
			return fmt.Errorf("health and metrics: %w", err)
		}
		log.Error("health and metrics", "err", err, "again_in", listenPause)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(listenPause):
		}
	}
}

// Handler answers /healthz, /readyz and /metrics.
func (s *Status) Handler(log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.liveness(); err != nil {
			http.Error(w, printable.Line(err.Error()), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "alive")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		text, err := s.readiness()
		if err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			text = fmt.Sprintf("not ready: %s\n%s", printable.Line(err.Error()), text)
		}
		_, _ = io.WriteString(w, text)
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		// A compressor takes a megabyte for each concurrent request.
		DisableCompression: true,
	}))
	return mux
}
