package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/version"
)

// status is what the installer knows, for /readyz and /metrics.
type status struct {
	mode     string // the node's default
	registry *prometheus.Registry

	ready     prometheus.Gauge
	patches   *prometheus.CounterVec // by reason
	failures  *prometheus.CounterVec // by reason
	failing   *prometheus.GaugeVec   // by reason
	checked   prometheus.Gauge
	missing   *prometheus.GaugeVec // by mode and what is missing
	preflight *prometheus.GaugeVec // by mode and result
	repaired  *prometheus.CounterVec

	mu     sync.Mutex
	last   time.Time // the end of the last attempt
	done   string    // what is in place; empty before the first success
	err    error
	notes  []string
	kernel []verdict
	unsure error // why preflight could not be done
}

// verdict is what preflight says of a mode.
type verdict struct {
	Mode    string   `json:"mode"`
	Missing []string `json:"missing"`
	Error   string   `json:"error,omitempty"` // nothing is known of it
}

func newStatus(mode string) *status {
	r := prometheus.NewRegistry()
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "tproxy_install", Name: name, Help: help}, labels)
		r.MustRegister(g)
		return g
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "tproxy_install", Name: name, Help: help}, labels)
		r.MustRegister(c)
		return c
	}
	s := &status{
		mode: mode, registry: r,
		ready:     gauge("ready", "1 while binary and entry are in place and verified (after uninstall: gone).").WithLabelValues(),
		patches:   counter("patches_total", "Changes made on the node, by what had been wrong.", "reason"),
		failures:  counter("failures_total", "Attempts that ended with an error, by its kind.", "reason"),
		failing:   gauge("error", "1 for the kind of error that keeps the installer from being ready.", "reason"),
		checked:   gauge("last_success_timestamp_seconds", "When the node was last found or made right.").WithLabelValues(),
		missing:   gauge("kernel_missing", "1 for each thing that the kernel lacks for a mode.", "mode", "feature"),
		preflight: gauge("preflight", "1 for the result of each mode's preflight.", "mode", "result"),
		repaired:  counter("pods_repaired_total", "Pods that had started without the plugin, by the outcome of their repair.", "result"),
	}
	gauge("build_info", "The version of installer and plugin.", "version").WithLabelValues(version.String()).Set(1)
	for _, kind := range []string{atConfDir, atBinary, atWaiting} {
		s.failing.WithLabelValues(kind).Set(0)
	}
	for _, result := range []string{"repaired", "failed"} {
		s.repaired.WithLabelValues(result)
	}
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	s.err = errors.New("not looked yet")
	return s
}

// set takes the outcome of an attempt and tells whether it differs from the
// one before, and so is worth a line in the log.
func (s *status) set(o outcome, done string, err error) (changed bool) {
	for _, why := range o.patches {
		s.patches.WithLabelValues(why).Inc()
	}
	var t trouble
	for _, kind := range []string{atConfDir, atBinary, atWaiting} {
		s.failing.WithLabelValues(kind).Set(0)
	}
	if errors.As(err, &t) {
		s.failing.WithLabelValues(t.kind).Set(1)
		s.failures.WithLabelValues(t.kind).Inc()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	changed = fmt.Sprint(s.err, s.done, s.notes) != fmt.Sprint(err, done, o.notes)
	s.err, s.notes, s.last = err, o.notes, time.Now()
	if s.done = done; err != nil {
		s.ready.Set(0)
		return changed
	}
	s.ready.Set(1)
	s.checked.Set(float64(time.Now().UnixMilli()) / 1000)
	return changed
}

func (s *status) setPreflight(verdicts []verdict, err error) {
	for _, v := range verdicts {
		result := "ok"
		switch {
		case v.Error != "":
			result = "unknown"
		case len(v.Missing) > 0:
			result = "missing"
		}
		s.preflight.WithLabelValues(v.Mode, result).Set(1)
		for _, m := range v.Missing {
			s.missing.WithLabelValues(v.Mode, m).Set(1)
		}
	}
	if err != nil {
		for _, mode := range modes {
			s.preflight.WithLabelValues(mode, "unknown").Set(1)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kernel, s.unsure = verdicts, err
}

// readiness is nil when all is in place and the kernel can do the node's
// default mode, as far as is known.
func (s *status) readiness() (text string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	err = s.err
	if since := time.Since(s.last); err == nil && since > 3*recheck {
		err = fmt.Errorf("no attempt has ended for %s: an operation on the node's directories hangs", since.Round(time.Second))
	}
	for _, v := range s.kernel {
		switch {
		case v.Error != "":
			fmt.Fprintf(&b, "kernel: mode %s unknown: %s\n", v.Mode, v.Error)
		case len(v.Missing) > 0:
			fmt.Fprintf(&b, "kernel: mode %s lacks %s\n", v.Mode, strings.Join(v.Missing, ", "))
			if v.Mode == s.mode && err == nil {
				err = fmt.Errorf("the kernel lacks what the node's default mode %s needs: %s", v.Mode, strings.Join(v.Missing, ", "))
			}
		default:
			fmt.Fprintf(&b, "kernel: mode %s works\n", v.Mode)
		}
	}
	if s.unsure != nil {
		fmt.Fprintf(&b, "kernel: unknown: %v\n", s.unsure)
	}
	for _, n := range s.notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	if err != nil {
		return b.String(), err
	}
	return s.done + "\n" + b.String(), nil
}

// dead is what only a new container can mend.
func (s *status) dead() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if errors.Is(s.err, errDeleted) {
		return s.err
	}
	return nil
}

func (s *status) handler(log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.dead(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "alive")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		text, err := s.readiness()
		if err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			text = fmt.Sprintf("not ready: %v\n%s", err, text)
		}
		_, _ = io.WriteString(w, text)
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}))
	return mux
}

// serve answers until ctx ends. A port that is taken, for instance by another
// installer during an upgrade, keeps nobody from working on the node: it is
// tried again.
func (s *status) serve(ctx context.Context, log *slog.Logger, addr string) {
	server := &http.Server{
		Handler: s.handler(log), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	for ctx.Err() == nil {
		ln, err := net.Listen("tcp", addr)
		if err == nil {
			log.Info("listening", "addr", ln.Addr())
			err = server.Serve(ln)
		}
		if !errors.Is(err, http.ErrServerClosed) {
			log.Error("health and metrics", "err", err)
		}
		wait(ctx, nil, 5*time.Second)
	}
}

var modes = []string{contract.ModeNAT, contract.ModeTProxy}
