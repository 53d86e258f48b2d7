package main

import (
	"time"
)

const (
	minBackoff = 5 * time.Millisecond
	maxBackoff = time.Second

	// calm is how long nothing must be short for a shortage to be over. At
	// a limit accept fails and succeeds by turns.
	calm = 5 * time.Second
)

// shortage paces the retries of accept and logs each lack of something once.
type shortage struct {
	warn  func(error)
	delay time.Duration // of the last wait; 0: accept works
	last  time.Time     // of the last failure
}

// failed returns how long to wait before the next try.
func (s *shortage) failed(now time.Time, err error) time.Duration {
	s.report(now, err)
	s.delay = min(max(2*s.delay, minBackoff), maxBackoff)
	return s.delay
}

func (s *shortage) succeeded() { s.delay = 0 }

func (s *shortage) report(now time.Time, err error) {
	if now.Sub(s.last) > calm {
		s.warn(err)
	}
	s.last = now
}

// reserve is the descriptors that are not for connections: those of pipes, of
// listeners, of those who ask for our health. A limit below twice that is
// halved.
const reserve = 2*maxPipes + 64

// connsFor is how many connections a limit of descriptors allows, so that none
// is accepted that lacks the descriptor to dial the application.
func connsFor(files uint64) int {
	return int((files - min(reserve, files/2)) / 2)
}
