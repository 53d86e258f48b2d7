package main

import (
	"context"
	"log/slog"
	"time"
)

const (
	minBackoff = 5 * time.Millisecond
	maxBackoff = time.Second

	// calm is how long nothing must fail for a shortage to be over. At the
	// limit accept fails and succeeds by turns.
	calm = 5 * time.Second
)

// backoff paces the retries of accept and logs a shortage once.
type backoff struct {
	log   *slog.Logger
	delay time.Duration // of the last wait; 0: accept works
	last  time.Time     // of the last failure
}

func (b *backoff) failed(ctx context.Context, err error) {
	if time.Since(b.last) > calm {
		b.log.Warn("cannot accept connections; clients wait until it works again", "err", err)
	}
	b.delay = min(max(2*b.delay, minBackoff), maxBackoff)
	select {
	case <-time.After(b.delay):
	case <-ctx.Done():
	}
	b.last = time.Now()
}

func (b *backoff) succeeded() { b.delay = 0 }
