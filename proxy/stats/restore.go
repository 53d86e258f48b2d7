package stats

import (
	"sync/atomic"

	"github.com/tproxy-cni/tproxy-cni/proxy/accesslog"
)

// Restore adds what another program has counted, before the loop runs: only those of
// Snapshot that are counted from the start, not what is open now. What an unknown name
// has counted goes to the rest.
func (l *Loop) Restore(s Snapshot) {
	l.Accepted.Add(s.Accepted)
	l.Retries.Add(s.DialRetries)
	if l.Relayed != nil {
		l.Relayed[0].Add(s.RelayedUp)
		l.Relayed[1].Add(s.RelayedDown)
	}
	restore(s.Closed, accesslog.Ends[:], l.closed[:], accesslog.Failed)
	restore(s.Spoofs, Spoofs[:], l.spoofs[:], Spoofs[None])
	restore(s.DialErrors, Errnos(), l.errnos[:], otherErrno)
	restore(s.Pauses, Pauses[:], l.pauses[:], Pauses[PauseOther])
	for i, n := range s.Dials.Buckets {
		l.dials.buckets[i].Add(n)
	}
	l.dials.sum.Add(int64(s.Dials.Sum))
}

func restore(from map[string]int64, names []string, counters []atomic.Int64, rest string) {
	unknown := int64(0)
	for _, n := range from {
		unknown += n
	}
	for i, name := range names {
		counters[i].Add(from[name])
		unknown -= from[name]
	}
	for i, name := range names {
		if name == rest {
			counters[i].Add(unknown)
		}
	}
}
