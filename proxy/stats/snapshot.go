package stats

import (
	"sync/atomic"

	"github.com/tproxy-cni/tproxy-cni/proxy/accesslog"
)

// Snapshot is what has been counted since the start. Every map has all of its keys, also
// those that nothing has been counted for.
type Snapshot struct {
	Accepted    int64            `json:"accepted"`
	Active      int64            `json:"active"` // Accepted, less all of Closed
	Limit       int64            `json:"limit"`  // that Active may reach; not from the loops
	HalfClosed  int64            `json:"half_closed"`
	Closed      map[string]int64 `json:"closed"`       // by accesslog.Ends
	RelayedUp   int64            `json:"relayed_up"`   // bytes, from clients
	RelayedDown int64            `json:"relayed_down"` // bytes, to clients
	Spoofs      map[string]int64 `json:"spoofs"`       // by Spoofs
	DialErrors  map[string]int64 `json:"dial_errors"`  // by the errno's name, or "other"
	DialRetries int64            `json:"dial_retries"`
	Dials       Histogram        `json:"dials"`          // that succeeded
	Pauses      map[string]int64 `json:"pauses"`         // by Pauses
	LinesLost   int64            `json:"log_lines_lost"` // not from the loops
}

// Sum reads the counters of all loops, which may change meanwhile.
func Sum(loops ...*Loop) Snapshot {
	s := Snapshot{
		Closed: map[string]int64{}, Spoofs: map[string]int64{}, DialErrors: map[string]int64{}, Pauses: map[string]int64{},
	}
	// First the ends, so that Active is not less than there were at any time.
	for _, l := range loops {
		for i, end := range accesslog.Ends {
			n := l.closed[i].Load()
			s.Closed[end] += n
			s.Active -= n
		}
		s.HalfClosed += l.HalfClosed.Load()
	}
	for _, l := range loops {
		s.Accepted += l.Accepted.Load()
		s.DialRetries += l.Retries.Load()
		s.Dials.add(&l.dials)
		if l.Relayed != nil {
			s.RelayedUp += l.Relayed[0].Load()
			s.RelayedDown += l.Relayed[1].Load()
		}
		add(s.Spoofs, Spoofs[:], l.spoofs[:])
		add(s.Pauses, Pauses[:], l.pauses[:])
		for i, e := range errnos {
			s.DialErrors[e.name] += l.errnos[i].Load()
		}
		s.DialErrors[otherErrno] += l.errnos[len(errnos)].Load()
	}
	s.Active += s.Accepted
	return s
}

func add(to map[string]int64, names []string, counters []atomic.Int64) {
	for i, name := range names {
		to[name] += counters[i].Load()
	}
}
