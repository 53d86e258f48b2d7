package main

import (
	"fmt"
	"math"
	"os"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"testing"
)

// TestScale makes many pods at once on one node, with the plugin and without
// it, and tells how long the runtime waited for all of its CNI plugins. There
// are 30, which two cores bear; SCALE is another number.
func TestScale(t *testing.T) {
	pods := 30.0
	if text := os.Getenv("SCALE"); text != "" {
		var err error
		if pods, err = strconv.ParseFloat(text, 64); err != nil {
			t.Fatal(err)
		}
	}
	measure := func(t *testing.T, mode string) {
		t.Helper()
		ns := newNamespace(t)
		p := pod{name: "many", node: 2, mode: mode}
		before := cniLatency(t, 2)
		ns.apply("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: many}\nspec:\n  replicas: " + fmt.Sprint(pods) +
			"\n  selector: {matchLabels: {app: many}}\n  template:\n" + indent(p.template(t), "    "))
		ns.kubectl("rollout", "status", "deployment/many", "--timeout=600s")
		after := cniLatency(t, 2)
		for le := range after {
			after[le] -= before[le]
		}
		t.Logf("%s: %.0f ADDs, p50 %s, p99 %s", t.Name(), after[math.Inf(1)], after.quantile(0.5), after.quantile(0.99))
		if after[math.Inf(1)] < pods {
			t.Errorf("%v ADDs for %v pods", after[math.Inf(1)], pods)
		}
		ns.kubectl("delete", "deployment/many", "--cascade=foreground", "--timeout=300s")
	}
	t.Run("nat", func(t *testing.T) { measure(t, "nat") })
	t.Run("tproxy", func(t *testing.T) { measure(t, "tproxy") })
	t.Run("without", func(t *testing.T) {
		uninstall(t)
		measure(t, "")
	})
}

// A histogram is Prometheus': the count of values up to each bound, in seconds.
type histogram map[float64]float64

func (h histogram) quantile(q float64) string {
	var bounds []float64
	for le := range h {
		bounds = append(bounds, le)
	}
	sort.Float64s(bounds)
	for _, le := range bounds {
		if h[le] >= q*h[math.Inf(1)] {
			return fmt.Sprintf("≤ %g ms", le*1000)
		}
	}
	return "?"
}

var bucket = regexp.MustCompile(`^containerd_cri_sandbox_create_network_seconds_bucket.*le="([^"]+)".* (\S+)$`)

// cniLatency reads the runtime's own metric of the time that a pod's network
// took, all of its plugins together.
func cniLatency(t *testing.T, n int) histogram {
	t.Helper()
	h := histogram{}
	for line := range strings.Lines(onNodeRun(t, n, "curl", "-fsS", "http://127.0.0.1:1338/v1/metrics")) {
		if m := bucket.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			le, _ := strconv.ParseFloat(m[1], 64)
			count, _ := strconv.ParseFloat(m[2], 64)
			h[le] += count
		}
	}
	return h
}
