package metrics

import (
	"bytes"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/proxy/accesslog"
	"github.com/tproxy-cni/tproxy-cni/proxy/podstat"
	"github.com/tproxy-cni/tproxy-cni/proxy/stats"
)

// full is a state of which every number is another one, with as many ports as there
// can be.
func full() *State {
	var l stats.Loop
	l.Accepted.Store(100)
	for i, how := range accesslog.Ends {
		for range i + 1 {
			l.End(how)
		}
	}
	l.Established(stats.AddressPort, 50*time.Microsecond)
	l.Established(stats.AddressPort, 100*time.Microsecond) // a bound is in its bucket
	l.Established(stats.Address, 2*time.Second)
	l.DialFailed(unix.ECONNREFUSED)
	l.DialFailed(unix.ENOMEM)
	l.Retries.Store(7)
	l.Pause(stats.PauseLimit)
	s := &State{
		Version: "v1 \"quoted\"\\\n", Mode: "nat", Reason: "rules", Reasons: []string{"rules", "uid"},
		Checked: time.UnixMilli(1_700_000_000_250), Snapshot: stats.Sum(&l),
		Reading: podstat.Reading{
			Drops: &podstat.Drops{Overflows: 8, Drops: 9}, Conntrack: &podstat.Conntrack{Entries: 10, Limit: 262_144},
			Process:    &podstat.Process{CPU: 1500 * time.Millisecond, Resident: 1 << 40, Files: 11, FileLimit: 12, Started: time.Unix(1_700_000_000, 0)},
			Goroutines: 13,
		},
	}
	for i := range podstat.MostQueues {
		s.Queues = append(s.Queues, podstat.Queue{Port: uint16(i + 1), Length: uint32(i), Limit: 4096})
	}
	return s
}

// parse reads a text as Prometheus does.
func parse(t *testing.T, text []byte) map[string]*dto.MetricFamily {
	t.Helper()
	p := expfmt.NewTextParser(model.LegacyValidation)
	all, err := p.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	return all
}

// value is that of the sample with a label's value; "" is the only sample.
func value(t *testing.T, all map[string]*dto.MetricFamily, name, label string) float64 {
	t.Helper()
	for _, m := range all[name].GetMetric() {
		if label == "" && len(m.Label) == 0 || slices.ContainsFunc(m.Label, func(l *dto.LabelPair) bool { return l.GetValue() == label }) {
			return m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	t.Errorf("no %s{%s}", name, label)
	return 0
}

// TestText: Prometheus' own parser reads every number back, and `promtool check
// metrics` has no complaint.
func TestText(t *testing.T) {
	text := Append(nil, full())
	all := parse(t, text)
	if got, want := slices.Sorted(maps.Keys(all)), slices.Sorted(slices.Values(Names())); !slices.Equal(got, want) {
		t.Errorf("metrics %q\nwant    %q", got, want)
	}
	for _, c := range []struct {
		name, label string
		want        float64
	}{
		{"tproxy_proxy_build_info", "v1 \"quoted\"\\\n", 1},
		{"tproxy_proxy_ready", "", 0},
		{"tproxy_proxy_not_ready", "rules", 1},
		{"tproxy_proxy_not_ready", "uid", 0},
		{"tproxy_proxy_prepared_check_timestamp_seconds", "", 1_700_000_000.25},
		{"tproxy_proxy_connections_accepted_total", "", 100},
		{"tproxy_proxy_connections_closed_total", accesslog.Ends[2], 3},
		{"tproxy_proxy_spoof_total", "address_port", 2},
		{"tproxy_proxy_spoof_total", "address", 1},
		{"tproxy_proxy_spoof_total", "none", 0},
		{"tproxy_proxy_dial_errors_total", "ECONNREFUSED", 1},
		{"tproxy_proxy_dial_errors_total", "other", 1},
		{"tproxy_proxy_dial_retries_total", "", 7},
		{"tproxy_proxy_accept_queue_length", "64", 63},
		{"tproxy_proxy_accept_queue_limit", "64", 4096},
		{"tproxy_proxy_listen_overflows_total", "", 8},
		{"tproxy_proxy_listen_drops_total", "", 9},
		{"tproxy_proxy_accept_paused_total", "limit", 1},
		{"tproxy_proxy_conntrack_limit", "", 262_144},
		{"process_cpu_seconds_total", "", 1.5},
		{"process_resident_memory_bytes", "", 1 << 40},
		{"process_max_fds", "", 12},
		{"go_goroutines", "", 13},
	} {
		if got := value(t, all, c.name, c.label); got != c.want {
			t.Errorf("%s{%q}: %v, want %v", c.name, c.label, got, c.want)
		}
	}
	h := all["tproxy_proxy_dial_duration_seconds"].Metric[0].Histogram
	if h.GetSampleCount() != 3 || h.GetSampleSum() != 2.00015 || len(h.Bucket) > 6 ||
		h.Bucket[0].GetCumulativeCount() != 2 || h.Bucket[4].GetCumulativeCount() != 2 {
		t.Errorf("histogram %v", h)
	}
	problems, err := promlint.New(bytes.NewReader(text)).Lint()
	if len(problems) > 0 || err != nil {
		t.Errorf("promtool would say: %v %v", problems, err)
	}
	if len(text) > 16<<10 {
		t.Errorf("%d bytes", len(text))
	}
	again := string(text)
	if allocs := testing.AllocsPerRun(10, func() { text = Append(text[:0], full()) }); string(text) != again {
		t.Error("another text for the same state")
	} else {
		t.Logf("%d bytes, %.0f allocations", len(text), allocs)
	}
}

// TestNothingYet: at the start every series is there, at 0, so that a rate is never of
// a counter that begins with 1. What cannot be read is not there, with the reason.
func TestNothingYet(t *testing.T) {
	text := Append(nil, &State{Version: "v1", Mode: "tproxy", Reasons: []string{"checking"}, Snapshot: stats.Sum(&stats.Loop{}), Reading: podstat.Reading{Err: errors.New("no\nluck")}})
	all := parse(t, text)
	series := map[string]int{"end": len(accesslog.Ends), "result": 3, "direction": 2, "errno": 10, "reason": 4 + 1}
	for name, f := range all {
		for _, m := range f.Metric {
			if v := m.GetGauge().GetValue() + m.GetCounter().GetValue() + m.GetHistogram().GetSampleSum(); v != 0 && name != "tproxy_proxy_build_info" {
				t.Errorf("%s is %v", name, v)
			}
			for _, l := range m.Label {
				series[l.GetName()]--
			}
		}
	}
	for _, label := range []string{"end", "result", "direction", "errno", "reason"} {
		if series[label] != 0 {
			t.Errorf("%d series with label %s are missing", series[label], label)
		}
	}
	for _, absent := range []string{"tproxy_proxy_conntrack_entries", "tproxy_proxy_listen_drops_total", "process_open_fds"} {
		if all[absent] != nil {
			t.Errorf("%s could not be read and is there", absent)
		}
	}
	if !strings.HasSuffix(string(text), "\n# no; luck\n") {
		t.Errorf("no reason in %q", text[len(text)-100:])
	}
}

// TestHandler: who asks at the same time gets one answer, who asks later another, of the
// type that Prometheus wants.
func TestHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reads := 0
		h := Handler(func() State {
			reads++
			s := full()
			s.Goroutines = reads
			return *s
		})
		for _, want := range []float64{1, 1, 2} {
			if want == 2 {
				time.Sleep(freshness + 1) // of synctest's clock
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
			if f := expfmt.ResponseFormat(w.Result().Header); f.FormatType() != expfmt.TypeTextPlain {
				t.Errorf("type %q", f)
			}
			if got := value(t, parse(t, w.Body.Bytes()), "go_goroutines", ""); got != want {
				t.Errorf("reading %v, want %v", got, want)
			}
		}
	})
}
