package main

import "sync"

// still is a time in which the loops stand still, each between two rounds: whoever asked
// for it may look at all that they have.
type still struct {
	moving sync.WaitGroup // loops that are
	over   chan struct{}
}

// standStill has all loops, which run, stand still while f runs.
func (p *proxy) standStill(f func() error) error {
	s := &still{over: make(chan struct{})}
	s.moving.Add(len(p.loops))
	p.still.Store(s)
	p.wakeLoops()
	s.moving.Wait()
	defer func() {
		p.still.Store(nil)
		close(s.over)
	}()
	return f()
}

// standStill returns when the loop may go on.
func (l *loop) standStill() {
	if s := l.still.Load(); s != nil {
		s.moving.Done()
		<-s.over
	}
}
