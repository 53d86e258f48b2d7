package main

import (
	"testing"

	"github.com/tproxy-cni/tproxy-cni/proxy/handover"
	"github.com/tproxy-cni/tproxy-cni/proxy/probe"
)

// TestTakeOverUnchecked: after a program that ended before its first check no client is
// served, or refused, before this one's.
func TestTakeOverUnchecked(t *testing.T) {
	var s status
	s.takeOver(&handover.Pod{Fault: &probe.Fault{Reason: probe.Checking, Text: "not yet"}})
	if s.unprepared() != checking {
		t.Error("the next sidecar takes it for a fault that a check has found")
	}
}

// TestFits: a document with a listener that this sidecar does not know is refused.
func TestFits(t *testing.T) {
	c := config{}
	for _, more := range [][]handover.Listener{{{}}, {{}, {}}} {
		s := handover.State{Listeners: append([]handover.Listener{{}}, more...)}
		if err := c.fits(&s); err == nil {
			t.Errorf("it fits %+v", s)
		}
	}
}
