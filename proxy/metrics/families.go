package metrics

import (
	"strconv"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/proxy/accesslog"
	"github.com/tproxy-cni/tproxy-cni/proxy/podstat"
	"github.com/tproxy-cni/tproxy-cni/proxy/stats"
)

// family is a metric with its samples.
type family struct {
	name, kind, help string
	samples          func(*State, *writer)
}

const (
	gauge   = "gauge"
	counter = "counter"
	hist    = "histogram"

	ours = "tproxy_proxy_"
)

// families are the metrics. docs/REFERENCE.md says what each means.
var families = []family{
	{ours + "build_info", gauge, "Version of the sidecar and its mode.", func(s *State, w *writer) {
		w.put(1, "version", s.Version, "mode", s.Mode)
	}},
	{ours + "ready", gauge, "1 while new connections are served.", func(s *State, w *writer) {
		w.put(truth(s.Ready))
	}},
	{ours + "not_ready", gauge, "1 for the reason why they are not.", func(s *State, w *writer) {
		for _, r := range s.Reasons {
			w.put(truth(r == s.Reason), "reason", r)
		}
	}},
	{ours + "packet_guard", gauge, "1 for the packet guard that is in force in the pod: nft, tc or none.", func(s *State, w *writer) {
		for _, g := range []string{contract.GuardNFT, contract.GuardTC, contract.GuardNone} {
			w.put(truth(g == s.Guard), "guard", g)
		}
	}},
	{ours + "prepared_check_timestamp_seconds", gauge, "Time of the last check that the plugin has prepared the pod; 0 before the first.", func(s *State, w *writer) {
		if s.Checked.IsZero() {
			w.put(0)
		} else {
			w.put(float64(s.Checked.UnixMilli()) / 1e3)
		}
	}},
	{ours + "connections_accepted_total", counter, "Connections of clients accepted.", func(s *State, w *writer) {
		w.count(s.Accepted)
	}},
	{ours + "connections_active", gauge, "Connections open: accepted and not closed.", func(s *State, w *writer) {
		w.count(s.Active)
	}},
	{ours + "connections_limit", gauge, "Connections that the limit of open files allows.", func(s *State, w *writer) {
		w.count(s.Limit)
	}},
	{ours + "connections_half_closed", gauge, "Open connections that one side has ended and the other has not.", func(s *State, w *writer) {
		w.count(s.HalfClosed)
	}},
	{ours + "connections_closed_total", counter, "Connections over, by end as in the log.", func(s *State, w *writer) {
		w.each("end", accesslog.Ends[:], s.Closed)
	}},
	{ours + "relayed_bytes_total", counter, "Bytes passed on, counted as they move. up: from clients.", func(s *State, w *writer) {
		w.count(s.RelayedUp, "direction", "up")
		w.count(s.RelayedDown, "direction", "down")
	}},
	{ours + "spoof_total", counter, "Connections to the application, by what it sees of the client.", func(s *State, w *writer) {
		w.each("result", stats.Spoofs[:], s.Spoofs)
	}},
	{ours + "dial_errors_total", counter, "Attempts to connect to the application that failed, by errno.", func(s *State, w *writer) {
		w.each("errno", stats.Errnos(), s.DialErrors)
	}},
	{ours + "dial_retries_total", counter, "Attempts to connect to the application with another port.", func(s *State, w *writer) {
		w.count(s.DialRetries)
	}},
	{ours + "dial_duration_seconds", hist, "Time from accepting a client to being connected to the application.", func(s *State, w *writer) {
		w.histogram(&s.Dials)
	}},
	{ours + "accept_queue_length", gauge, "Connections that wait for the program listening on a port of the pod.", func(s *State, w *writer) {
		w.queues(s, func(q podstat.Queue) uint32 { return q.Length })
	}},
	{ours + "accept_queue_limit", gauge, "Connections that may wait; further ones are dropped.", func(s *State, w *writer) {
		w.queues(s, func(q podstat.Queue) uint32 { return q.Limit })
	}},
	{ours + "listen_overflows_total", counter, "Connections that the pod dropped because an accept queue was full, of all its listeners since it began.", func(s *State, w *writer) {
		if s.Drops != nil {
			w.put(float64(s.Drops.Overflows))
		}
	}},
	{ours + "listen_drops_total", counter, "Connections that the pod's listeners dropped for any reason, since it began.", func(s *State, w *writer) {
		if s.Drops != nil {
			w.put(float64(s.Drops.Drops))
		}
	}},
	{ours + "accept_paused_total", counter, "Times that accepting stopped for a while, by reason: clients wait in the sidecar's queue.", func(s *State, w *writer) {
		w.each("reason", stats.Pauses[:], s.Pauses)
	}},
	{ours + "log_lines_lost_total", counter, "Lines of connections lost because the reader of the log was too slow, or its disk full.", func(s *State, w *writer) {
		w.count(s.LinesLost)
	}},
	{ours + "conntrack_entries", gauge, "Connections that conntrack follows in the pod; nat mode.", func(s *State, w *writer) {
		if s.Conntrack != nil {
			w.put(float64(s.Conntrack.Entries))
		}
	}},
	{ours + "conntrack_limit", gauge, "Connections that conntrack may follow in the pod (nf_conntrack_max of the node); nat mode.", func(s *State, w *writer) {
		if s.Conntrack != nil {
			w.put(float64(s.Conntrack.Limit))
		}
	}},
	{"process_cpu_seconds_total", counter, "User and system CPU time.", ofProcess(func(p *podstat.Process) float64 { return p.CPU.Seconds() })},
	{"process_resident_memory_bytes", gauge, "Resident memory.", ofProcess(func(p *podstat.Process) float64 { return float64(p.Resident) })},
	{"process_virtual_memory_bytes", gauge, "Virtual memory.", ofProcess(func(p *podstat.Process) float64 { return float64(p.Virtual) })},
	{"process_open_fds", gauge, "Open descriptors.", ofProcess(func(p *podstat.Process) float64 { return float64(p.Files) })},
	{"process_max_fds", gauge, "Limit of open descriptors.", ofProcess(func(p *podstat.Process) float64 { return float64(p.FileLimit) })},
	{"process_start_time_seconds", gauge, "Time of the start.", ofProcess(func(p *podstat.Process) float64 { return float64(p.Started.UnixMilli()) / 1e3 })},
	{"go_goroutines", gauge, "Goroutines.", func(s *State, w *writer) { w.count(int64(s.Goroutines)) }},
}

func ofProcess(value func(*podstat.Process) float64) func(*State, *writer) {
	return func(s *State, w *writer) {
		if s.Process != nil {
			w.put(value(s.Process))
		}
	}
}

func (w *writer) queues(s *State, value func(podstat.Queue) uint32) {
	for _, q := range s.Queues {
		w.put(float64(value(q)), "port", strconv.Itoa(int(q.Port)))
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
