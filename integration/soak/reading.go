package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tproxy-cni/tproxy-cni/integration/samples"
)

// reading is what a sidecar says and takes.
type reading struct {
	mode    string
	metrics samples.Samples
	log     samples.Samples // what its lines add up to
	sockets int             // of the pod
}

func (s *site) read() (r reading, err error) {
	r.mode = s.mode
	if r.metrics, err = s.scrape(); err != nil {
		return r, err
	}
	r.log = s.log.Seen()
	r.sockets, err = s.sockets()
	return r, err
}

// closed is the series of connections that ended so.
func closed(how string) string { return "connections_closed_total{" + how + "}" }

// ends are how connections have ended, the most frequent first.
func (r reading) ends() (all []string) {
	for key, n := range r.metrics {
		if how, ok := strings.CutPrefix(key, "connections_closed_total{"); ok && n > 0 {
			all = append(all, strings.TrimSuffix(how, "}"))
		}
	}
	slices.SortFunc(all, func(a, b string) int { return int(r.metrics[closed(b)] - r.metrics[closed(a)]) })
	return all
}

// unlogged are those that have no line at the level of production.
var unlogged = []string{"client silent", "crowded"}

// toLog is how many connections have, or will have, a line.
func (r reading) toLog() (n float64) {
	for _, how := range r.ends() {
		if !slices.Contains(unlogged, how) {
			n += r.metrics[closed(how)]
		}
	}
	return n - r.metrics["log_lines_lost_total"]
}

// quiet waits until no sidecar has a connection and its log has come, and reads the
// figures of each once it has given its memory back.
func (s *soak) quiet() (all []reading) {
	const most = 6 * time.Minute // a client that vanished is found after three
	for _, site := range s.sites {
		for deadline := time.Now().Add(most); ; <-time.After(time.Second) {
			r, err := site.read()
			switch {
			case err != nil:
			case r.metrics["connections_active"] > 0:
				err = fmt.Errorf("%.0f connections are open", r.metrics["connections_active"])
			case r.log["connections_accepted_total"] < r.toLog():
				err = fmt.Errorf("the log has %.0f lines of %.0f", r.log["connections_accepted_total"], r.toLog())
			}
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				s.t.Fatalf("%s mode: after %v: %v", site.mode, most, err)
			}
		}
	}
	<-time.After(5 * time.Second)
	for _, site := range s.sites {
		r, err := site.read()
		if err != nil {
			s.t.Fatalf("%s mode: %v", site.mode, err)
		}
		all = append(all, r)
	}
	return all
}

// lost are ends of connections that no client has brought about.
var lost = []string{"crowded", "drained", "error", "exhausted", "rejected", "refused", "unprepared", "unreachable", "half-closed timeout"}

// Growth that is none: pipes that the sidecar keeps for the next bulk streams, and pages
// of its program that were not needed before.
const (
	mostFiles   = 16
	mostSockets = 4
	mostMemory  = 4e6
)

// faults are the figures that are not as they should be: want is what the clients did, of
// whom gone have vanished.
func (r reading) faults(want cell, gone int64, before reading) (all []string) {
	fault := func(format string, a ...any) { all = append(all, r.mode+" mode: "+fmt.Sprintf(format, a...)) }
	m := r.metrics
	if n := m["connections_accepted_total"]; int64(n) != want.Conns {
		fault("the clients opened %d connections, the sidecar accepted %.0f", want.Conns, n)
	}
	if n := m[closed("client timeout")] + m[closed("client error")]; int64(n) != gone {
		fault("%d connections of clients vanished for good, the sidecar says so of %.0f", gone, n)
	}
	var over float64
	for _, how := range r.ends() {
		over += m[closed(how)]
		if slices.Contains(lost, how) {
			fault("%.0f connections ended as %s", m[closed(how)], how)
		}
	}
	if over != m["connections_accepted_total"] {
		fault("%.0f connections were accepted, %.0f are over", m["connections_accepted_total"], over)
	}
	if n := r.log["connections_accepted_total"]; n != r.toLog() {
		fault("%.0f connections should have a line in the log, %.0f have", r.toLog(), n)
	}
	if m["log_lines_lost_total"] == 0 {
		for _, key := range slices.Sorted(maps.Keys(m)) {
			how := strings.TrimSuffix(strings.TrimPrefix(key, "connections_closed_total{"), "}")
			if (strings.HasPrefix(key, "connections_closed_total{") && !slices.Contains(unlogged, how) || strings.HasPrefix(key, "relayed_bytes_total")) &&
				m[key] != r.log[key] {
				fault("%s is %.0f, the log has %.0f", key, m[key], r.log[key])
			}
		}
	}
	if n := m["spoof_total{none}"]; n != 0 {
		fault("%.0f connections had neither the client's address nor its port", n)
	}
	if n := m["spoof_total{address}"]; r.mode != modeTProxy && int64(n) < want.Others {
		fault("%d clients were seen with another port, the sidecar says %.0f", want.Others, n)
	}
	for _, grown := range []struct {
		what      string
		was, is   float64
		tolerance float64
	}{
		{"open files", before.metrics["process_open_fds"], m["process_open_fds"], mostFiles},
		{"sockets of the pod", float64(before.sockets), float64(r.sockets), mostSockets},
		{"resident memory", before.metrics["process_resident_memory_bytes"], m["process_resident_memory_bytes"], mostMemory},
		{"goroutines", before.metrics["go_goroutines"], m["go_goroutines"], 2},
	} {
		if grown.is > grown.was+grown.tolerance {
			fault("%s: %.0f before, %.0f after", grown.what, grown.was, grown.is)
		}
	}
	return all
}
