package main

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tproxy-cni/tproxy-cni/proxy/accesslog"
)

// TestPause: a suspicious connection brings the next check of the pod forward, and many
// of them bring no more than one check a second.
func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p proxy
		p.suspects = make(chan struct{}, 1)
		ctx, cancel := context.WithCancel(t.Context())
		for _, tt := range []struct {
			suspects bool
			want     time.Duration
		}{{false, preparedCheck}, {true, suspectCheck}, {true, suspectCheck}, {false, preparedCheck}} {
			if tt.suspects {
				p.suspects <- struct{}{}
			}
			start := time.Now()
			if took := func() time.Duration { p.pause(ctx); return time.Since(start) }(); took != tt.want {
				t.Errorf("suspicious %v: after %v, want %v", tt.suspects, took, tt.want)
			}
		}
		cancel()
		if p.pause(ctx) {
			t.Error("it does not end with the sidecar")
		}
	})
}

// TestSuspicious: what a pod that is not prepared any more does to connections asks for
// a check, and what others do does not.
func TestSuspicious(t *testing.T) {
	for _, tt := range []struct {
		how  string
		want bool
	}{
		{accesslog.Closed, false},
		{accesslog.Silent, false},
		{accesslog.ClientReset, false},
		{accesslog.Rejected, false},
		{accesslog.Exhausted, false},
		{accesslog.ApplicationReset, true},
		{accesslog.Refused, true},
		{accesslog.Unreachable, true},
		{accesslog.Unprepared, true},
	} {
		var s shared
		s.suspects = make(chan struct{}, 1)
		for range 3 { // more than there is room for
			s.suspect(accesslog.Outcome{How: tt.how})
		}
		if got := len(s.suspects) == 1; got != tt.want {
			t.Errorf("%s: %v, want %v", tt.how, got, tt.want)
		}
	}
}
