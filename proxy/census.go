package main

import (
	"context"
	"sync"
	"time"

	"github.com/tproxy-cni/tproxy-cni/proxy/report"
)

// census asks all loops for their connections.
type census struct {
	mu   sync.Mutex
	open bool // the loops run, or have ended not long ago
}

// censusPatience is how long a loop may take to walk. Only one that is stuck in a
// system call needs nearly as much.
const censusPatience = time.Second

// take returns the connections of all loops, in both orders.
func (c *census) take(loops []*loop) (live report.Live, byBytes, byAge []report.Connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.open {
		return live, nil, nil
	}
	walks := make([]*walk, len(loops))
	for i, l := range loops {
		walks[i] = newWalk()
		l.walk.Store(walks[i])
		l.wake()
	}
	ctx, stop := context.WithTimeout(context.Background(), censusPatience)
	defer stop()
	for i, w := range walks {
		select {
		case <-w.done:
			live.States.Add(w.states)
			byBytes, byAge = append(byBytes, w.list[0]...), append(byAge, w.list[1]...)
		case <-loops[i].ended: // with its last connection
		case <-ctx.Done():
			live.Incomplete = true
		}
	}
	return live, byBytes, byAge
}

// set says whether the loops may be asked from now on. It returns once no census is
// under way.
func (c *census) set(open bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open = open
}
