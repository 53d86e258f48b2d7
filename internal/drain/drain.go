// Package drain is a server's shutdown: the first SIGTERM or SIGINT stops
// accepting, the second cuts the running connections.
package drain

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Signals returns a context that the first signal cancels and one that the second
// cancels. The timeout is only logged. The caller calls stop when it is done, which
// cancels both.
func Signals(log *slog.Logger, timeout time.Duration) (accepting, running context.Context, stop func()) {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	accepting, stopAccepting := context.WithCancel(context.Background())
	running, stopRunning := context.WithCancel(context.Background())
	go func() {
		s := <-signals
		LogBounded(func() { log.Info("draining", "signal", s.String(), "drain", timeout) })
		stopAccepting()
		s = <-signals
		LogBounded(func() { log.Warn("second signal, exiting now", "signal", s.String()) })
		stopRunning()
	}()
	return accepting, running, func() { stopAccepting(); stopRunning() }
}

// LogBounded calls write and waits for it for at most a second: a full pipe behind
// stderr must not keep a server from stopping. After that write goes on by itself.
func LogBounded(write func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		write()
	}()
	select {
	case <-done:
	case <-time.After(time.Second):
	}
}
