package main

import (
	"sync"
	"sync/atomic"
)

// still makes loops stand still, each between two rounds: whoever asks may look at all
// that they have. The zero value lets them go on.
type still struct{ asked atomic.Pointer[standing] }

// standing is one time in which they do.
type standing struct {
	moving sync.WaitGroup // loops that do not yet
	over   chan struct{}
}

// during has so many loops stand still, which run, while f runs. wake makes each call
// pass.
func (s *still) during(loops int, wake func(), f func() error) error {
	now := &standing{over: make(chan struct{})}
	now.moving.Add(loops)
	s.asked.Store(now)
	wake()
	now.moving.Wait()
	defer func() {
		s.asked.Store(nil)
		close(now.over)
	}()
	return f()
}

// pass returns when the loop that calls it may go on.
func (s *still) pass() {
	if now := s.asked.Load(); now != nil {
		now.moving.Done()
		<-now.over
	}
}
