// Package health is what the installer tells the kubelet and Prometheus: liveness,
// readiness and metrics, on one port.
package health

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/tproxy-cni/tproxy-cni/install/node"
	"github.com/tproxy-cni/tproxy-cni/install/preflight"
	"github.com/tproxy-cni/tproxy-cni/install/state"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/version"
)

// Status is the state of the installer. Its methods may be called from several
// goroutines.
type Status struct {
	mode     string // the node's default
	guard    bool   // the whole packet guard is required by the node's default
	registry *prometheus.Registry

	ready     prometheus.Gauge
	patches   *prometheus.CounterVec // by reason
	failures  *prometheus.CounterVec // by reason
	failing   *prometheus.GaugeVec   // by reason
	checked   prometheus.Gauge       // seconds since the epoch
	missing   *prometheus.GaugeVec   // by mode and feature
	guards    *prometheus.GaugeVec   // by mode and guard
	preflight *prometheus.GaugeVec   // by mode and result
	repaired  *prometheus.CounterVec // by kind and result
	pods      *prometheus.GaugeVec   // by mode and state
	looked    prometheus.Gauge       // seconds since the epoch
	lookTook  prometheus.Gauge       // seconds

	mu           sync.Mutex
	last         time.Time // the end of the last attempt
	state        string    // what is in place; empty before the first success
	err          error     // of the last attempt
	notes        []string
	verdicts     []preflight.Verdict
	preflightErr error // why there are no verdicts
}

// New returns the status of an installer that has not made an attempt yet. mode
// is the node's default, contract.ModeNone if pods choose theirs; guard is its
// default of the setting packet-guard.
func New(mode string, guard contract.PacketGuard) *Status {
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
	s := &Status{
		mode: mode, guard: guard == contract.PacketGuardRequired, registry: r,
		ready:     gauge("ready", "1 while the plugin and its CNI entry are installed and verified (uninstall: removed).").WithLabelValues(),
		patches:   counter("patches_total", "Repairs made on the node, by reason.", "reason"),
		failures:  counter("failures_total", "Failed attempts, by kind of failure.", "reason"),
		failing:   gauge("error", "1 for the kind of failure that keeps the installer from being ready.", "reason"),
		checked:   gauge("last_success_timestamp_seconds", "Time of the last successful check or repair of the node.").WithLabelValues(),
		missing:   gauge("kernel_missing", "1 for each feature that the kernel lacks for a mode.", "mode", "feature"),
		guards:    gauge("packet_guard", "1 for the packet guard that the kernel can have in a mode: nft, tc or none.", "mode", "guard"),
		preflight: gauge("preflight", "1 for the result of each mode's preflight: ok, missing or unknown.", "mode", "result"),
		repaired:  counter("pods_repaired_total", "Pods that were not as the plugin programs them, by what they were and the result of the repair.", "kind", "result"),
		pods:      gauge("pods", "Pods that ask for interception, by mode and state; only with --repair.", "mode", "state"),
		looked:    gauge("pods_checked_timestamp_seconds", "Time of the last check of all pods; 0 without --repair.").WithLabelValues(),
		lookTook:  gauge("pods_check_duration_seconds", "How long the last check of all pods took, repairs left out.").WithLabelValues(),
	}
	gauge("build_info", "The version of the installer and the plugin.", "version").WithLabelValues(version.String()).Set(1)
	for _, kind := range node.Kinds() {
		s.failing.WithLabelValues(kind).Set(0)
	}
	for _, kind := range []state.State{state.CameFirst, state.Drifted, state.Contested, state.Invalid, state.Unknown} {
		s.repaired.WithLabelValues(string(kind), failed)
		if kind == state.CameFirst || kind == state.Drifted {
			s.repaired.WithLabelValues(string(kind), repaired)
		}
	}
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	s.err = errors.New("first check has not finished")
	return s
}

// Attempt takes the outcome of an attempt and, if err is nil, what is in place
// now. It reports whether this differs from the attempt before, and so is worth
// a line in the log.
func (s *Status) Attempt(o node.Outcome, state string, err error) (changed bool) {
	for _, why := range o.Patches {
		s.patches.WithLabelValues(why).Inc()
	}
	for _, kind := range node.Kinds() {
		s.failing.WithLabelValues(kind).Set(0)
	}
	var f node.Failure
	if errors.As(err, &f) {
		s.failing.WithLabelValues(f.Kind).Set(1)
		s.failures.WithLabelValues(f.Kind).Inc()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	changed = fmt.Sprint(s.err, s.state, s.notes) != fmt.Sprint(err, state, o.Notes)
	s.err, s.state, s.notes, s.last = err, state, o.Notes, time.Now()
	if err != nil {
		s.ready.Set(0)
		return changed
	}
	s.ready.Set(1)
	s.checked.Set(float64(time.Now().UnixMilli()) / 1000)
	return changed
}

// Preflight takes what the kernel can do or, as err, why that is unknown.
func (s *Status) Preflight(verdicts []preflight.Verdict, err error) {
	for _, v := range verdicts {
		result := "ok"
		switch {
		case v.Error != "":
			result = "unknown"
		case len(v.Lacks(s.guard)) > 0:
			result = "missing"
		}
		s.preflight.WithLabelValues(v.Mode, result).Set(1)
		if v.Guard != "" {
			s.guards.WithLabelValues(v.Mode, v.Guard).Set(1)
		}
		for _, m := range v.Lacks(s.guard) {
			s.missing.WithLabelValues(v.Mode, m).Set(1)
		}
	}
	if err != nil {
		for _, mode := range preflight.Modes() {
			s.preflight.WithLabelValues(mode, "unknown").Set(1)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.verdicts, s.preflightErr = verdicts, err
}

// The results of the repair of a pod.
const repaired, failed = "repaired", "failed"

// Pod counts a pod that was of a kind and was repaired or, if ok is false, could
// not be.
func (s *Status) Pod(kind state.State, ok bool) {
	result := failed
	if ok {
		result = repaired
	}
	s.repaired.WithLabelValues(string(kind), result).Inc()
}

// Pods takes how many pods a check of all has found in each state, and how long it
// took.
func (s *Status) Pods(c state.Count, took time.Duration) {
	for _, st := range state.States() {
		for _, mode := range append(preflight.Modes(), contract.ModeNone) { // none: settings that are invalid
			s.pods.WithLabelValues(mode, string(st)).Set(float64(c[st][contract.Mode(mode)]))
		}
	}
	s.lookTook.Set(took.Seconds())
	s.looked.Set(float64(time.Now().UnixMilli()) / 1000)
}
