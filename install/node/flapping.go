package node

import (
	"slices"
	"time"

	"github.com/tproxy-cni/tproxy-cni/install/conflist"
)

// Flapping notices that another program removes the plugin's entry each time it
// is put in, which does not stop before an administrator changes its settings.
// The zero value has seen nothing.
type Flapping struct{ times []time.Time }

// The entry flaps when it was missing so many times within so long.
const (
	flappingTimes = 5
	flappingSpan  = time.Minute
)

// Note takes the patches of the attempt that ended now, and returns the warning
// to show after it; empty if the entry does not flap.
func (f *Flapping) Note(patches []string, now time.Time) string {
	for _, why := range patches {
		if why == string(conflist.Missing) {
			f.times = append(f.times, now)
		}
	}
	f.times = slices.DeleteFunc(f.times, func(t time.Time) bool { return now.Sub(t) > flappingSpan })
	if len(f.times) < flappingTimes {
		return ""
	}
	return "another program keeps removing the plugin's entry, and pods that start in between are not intercepted; Cilium does so unless its cni.exclusive is false"
}
