package main

import (
	"errors"
	"net/netip"
	"sync/atomic"
)

// places counts the connections of all loops and bounds them.
type places struct {
	limit    int64
	reserved int64 // of them, for sources that have few

	taken   atomic.Int64
	waiting int64       // of them, for clients that acceptors make wait; the first loop's
	full    atomic.Bool // the first loop waits for a free place
	freed   func()      // wakes the first loop, from any thread
	sources sources
}

var errFull = errors.New("the limit of open files allows no more connections")

func newPlaces(files uint64) places {
	limit := int64(connsFor(files))
	return places{limit: limit, reserved: reservedOf(limit)}
}

// take counts one more connection, if there may be one.
func (p *places) take() bool {
	if p.taken.Add(1) <= p.limit {
		return true
	}
	p.taken.Add(-1)
	p.full.Store(true)
	return false
}

// release undoes take.
func (p *places) release() {
	p.taken.Add(-1)
	if p.full.Load() && p.full.CompareAndSwap(true, false) {
		p.freed()
	}
}

// free reports whether take may succeed.
func (p *places) free() bool { return p.taken.Load() < p.limit }

// enter asks whether a client may have the place that has been taken for it, one that
// does not wait, or not any more. If not, it returns how many its source has. It is
// called on the first loop's thread.
func (p *places) enter(client netip.Addr) (held int, ok bool) {
	taken := p.taken.Load()
	plenty := taken-p.waiting <= p.limit-p.reserved
	return p.sources.enter(client, plenty, p.limit-taken)
}

// leave undoes take and enter.
func (p *places) leave(client netip.Addr) {
	p.sources.leave(client)
	p.release()
}
