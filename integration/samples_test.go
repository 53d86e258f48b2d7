package integration

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/integration/samples"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// scrape asks with curl for what the sidecar counts.
func (p *pod) scrape(t *testing.T) samples.Samples {
	t.Helper()
	text := p.Node.Run("curl", "-sSf", "http://"+addr(p.fams()[0].pod, contract.AdminPort)+"/metrics")
	s, err := samples.Read(text)
	if err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return s
}

// counted are the series that a step must name if they change. The kernel's counters and
// gauges, bytes and the process' own change by themselves or are looked at elsewhere.
func counted(key string) bool {
	for _, other := range []string{"process_", "go_", "listen_", "accept_queue_", "conntrack_", "relayed_bytes", "prepared_check", "accept_paused"} {
		if strings.HasPrefix(key, other) {
			return false
		}
	}
	return true
}

// wantChange waits until the series have changed by so much since before, and no other
// that is counted.
func (p *pod) wantChange(t *testing.T, before, change samples.Samples) {
	t.Helper()
	lab.Eventually(t, "the metrics", func() error {
		var faults []error
		now := p.scrape(t)
		for _, key := range slices.Sorted(maps.Keys(now)) {
			want, named := change[key]
			if got := now[key] - before[key]; got != want && (named || counted(key)) {
				faults = append(faults, fmt.Errorf("%s: %+g, want %+g", key, got, want))
			}
		}
		for key := range change {
			if _, ok := now[key]; !ok {
				faults = append(faults, fmt.Errorf("no %s", key))
			}
		}
		return errors.Join(faults...)
	})
}

// plus is a connection that reached the application as the mode promises, and more.
func (p *pod) plus(more samples.Samples) samples.Samples {
	result := "spoof_total{address_port}"
	if p.mode == contract.ModeTProxy {
		result = "spoof_total{address}"
	}
	all := samples.Samples{"connections_accepted_total": 1, "dial_duration_seconds": 1, result: 1}
	maps.Copy(all, more)
	return all
}
