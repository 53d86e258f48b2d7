package main

import "time"

const (
	minBackoff = 5 * time.Millisecond
	maxBackoff = time.Second

	// calm is how long a shortage must be absent to be over. At a limit accept
	// fails and succeeds by turns.
	calm = 5 * time.Second
)

// backoff paces the retries of accept and logs each shortage once.
type backoff struct {
	warn  func(error)
	delay time.Duration // of the last wait; 0: accept works
	last  time.Time     // the last failure
}

// failed returns how long to wait before the next try.
func (b *backoff) failed(now time.Time, err error) time.Duration {
	if b.fresh(now) {
		b.warn(err)
	}
	b.delay = min(max(2*b.delay, minBackoff), maxBackoff)
	return b.delay
}

func (b *backoff) succeeded() { b.delay = 0 }

// fresh notes a failure and reports whether it is the first of a shortage, which is
// to be logged.
func (b *backoff) fresh(now time.Time) bool {
	first := now.Sub(b.last) > calm
	b.last = now
	return first
}
