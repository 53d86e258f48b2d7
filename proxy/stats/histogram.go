package stats

import (
	"sync/atomic"
	"time"
)

// Bounds are the upper bounds of a histogram's buckets, each included. One more bucket
// is for what is longer: a dial over lo takes microseconds, and a second or more only
// if a SYN is lost or the accept queue is full.
var Bounds = [...]time.Duration{100 * time.Microsecond, time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond, time.Second}

type histogram struct {
	buckets [len(Bounds) + 1]atomic.Int64
	sum     atomic.Int64 // nanoseconds
}

func (h *histogram) observe(d time.Duration) {
	i := 0
	for i < len(Bounds) && d > Bounds[i] {
		i++
	}
	h.buckets[i].Add(1)
	h.sum.Add(int64(d))
}

// Histogram is the durations counted so far.
type Histogram struct {
	Buckets [len(Bounds) + 1]int64 `json:"buckets"` // each alone, not cumulative; the last is beyond all Bounds
	Sum     time.Duration          `json:"sum_nanoseconds"`
}

// Count is how many durations there are.
func (h *Histogram) Count() (n int64) {
	for _, b := range h.Buckets {
		n += b
	}
	return n
}

func (h *Histogram) add(of *histogram) {
	for i := range h.Buckets {
		h.Buckets[i] += of.buckets[i].Load()
	}
	h.Sum += time.Duration(of.sum.Load())
}
