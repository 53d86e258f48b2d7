package main

import (
	"slices"
	"time"

	"github.com/tproxy-cni/tproxy-cni/install/conflist"
)

// quarrel notices that somebody takes our entry out whenever we have put it in,
// which is no accident and has an end only if an administrator knows of it.
type quarrel struct{ times []time.Time }

// Often is so many times in so long.
const (
	quarrelTimes = 5
	quarrelSpan  = time.Minute
)

// note is what to say of it after an attempt, empty while there is none.
func (q *quarrel) note(patches []string, now time.Time) string {
	for _, why := range patches {
		if why == string(conflist.Missing) {
			q.times = append(q.times, now)
		}
	}
	q.times = slices.DeleteFunc(q.times, func(t time.Time) bool { return now.Sub(t) > quarrelSpan })
	if len(q.times) < quarrelTimes {
		return ""
	}
	return "somebody takes our entry out again and again, and pods that start in between lack the plugin; Cilium does so unless its cni.exclusive is false"
}
