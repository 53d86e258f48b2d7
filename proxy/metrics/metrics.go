// Package metrics writes what the sidecar has counted in Prometheus' text format.
//
// The counters are not kept here (package stats), so this is no more than a table of
// names and a writer. All label sets are closed, but for the ports of the pod's own
// listeners, of which there are podstat.MostQueues at most; no label is a client's.
package metrics

import (
	"net/http"
	"sync"
	"time"

	"github.com/tproxy-cni/tproxy-cni/proxy/podstat"
	"github.com/tproxy-cni/tproxy-cni/proxy/stats"
)

// State is what is shown.
type State struct {
	Version, Mode string

	Ready   bool
	Reason  string    // one of Reasons; empty if ready
	Reasons []string  // all that there are
	Checked time.Time // the end of the last check of the pod; zero: none yet
	Guard   string    // the packet guard that it found in force; empty: not known

	stats.Snapshot
	podstat.Reading
}

// freshness is for how long an answer does for all who ask: reading the kernel's side
// takes longer than what anyone in the cluster can ask in that time.
const freshness = 100 * time.Millisecond

// Handler answers with the state that read returns.
func Handler(read func() State) http.Handler {
	var mu sync.Mutex
	var text []byte
	var at time.Time
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(at) > freshness {
			s := read()
			text, at = Append(text[:0], &s), time.Now()
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = w.Write(text)
	})
}

// Append appends the text. What could not be read is missing, and a comment at the end
// says why.
func Append(text []byte, s *State) []byte {
	w := writer{text: text}
	for i := range families {
		w.family = &families[i]
		w.headed = false
		w.family.samples(s, &w)
	}
	if s.Err != nil {
		w.comment(s.Err.Error())
	}
	return w.text
}

// Names are those of all metrics, in the order of the text.
func Names() (all []string) {
	for _, f := range families {
		all = append(all, f.name)
	}
	return all
}
