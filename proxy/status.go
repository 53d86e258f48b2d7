package main

import (
	"cmp"
	"sync"
	"time"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/proxy/handover"
	"github.com/tproxy-cni/tproxy-cni/proxy/probe"
)

var (
	checking = &probe.Fault{Reason: probe.Checking, Text: "not checked yet whether the plugin has prepared this pod"}
	draining = &probe.Fault{Reason: probe.Draining, Text: "draining: no new connections"}
)

// readiness is what /readyz, the metrics and the status command say.
type readiness struct {
	Ready   bool
	Reason  probe.Reason   // one of probe.Reasons; empty if ready
	Text    string         // the reason in a line; empty if ready
	Cure    string         // what to do, in a line; may be empty
	Checked time.Time      // when the last check of the pod ended; zero: none has
	Guard   contract.Guard // the packet guard that it found in force; empty: not known
}

// status is whether clients can be served. Draining is final.
type status struct {
	mu       sync.Mutex
	pod      *probe.Fault // why it is not prepared
	ports    *probe.Fault // why clients find no port; connections are tried all the same
	draining bool
	checked  time.Time
	guard    contract.Guard
}

// set notes the result of a check of the pod, nil if it is prepared.
func (s *status) set(f *probe.Fault, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pod, s.checked = f, now
}

// setGuard notes which packet guard a check of the pod has found.
func (s *status) setGuard(g contract.Guard) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.guard = g
}

func (s *status) setPorts(f *probe.Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ports = f
}

func (s *status) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
}

// unprepared is nil if new connections may be tried.
func (s *status) unprepared() *probe.Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pod
}

// handOver is what the next program goes on from.
func (s *status) handOver() handover.Pod {
	s.mu.Lock()
	defer s.mu.Unlock()
	return handover.Pod{Fault: s.pod, Ports: s.ports, Guard: s.guard, Checked: s.checked}
}

// takeOver goes on from there. Where no check has ended yet, none has here.
func (s *status) takeOver(h *handover.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pod, s.ports, s.guard, s.checked = h.Fault, h.Ports, h.Guard, h.Checked
	if h.Fault != nil && h.Fault.Reason == probe.Checking {
		s.pod = checking
	}
}

// readiness says whether the sidecar serves clients, and if not the first of the
// reasons.
func (s *status) readiness() readiness {
	s.mu.Lock()
	defer s.mu.Unlock()
	why := cmp.Or(s.pod, s.ports)
	if s.draining {
		why = draining
	}
	if why == nil {
		return readiness{Ready: true, Checked: s.checked, Guard: s.guard}
	}
	return readiness{Reason: why.Reason, Text: why.Text, Cure: why.Cure, Checked: s.checked, Guard: s.guard}
}
