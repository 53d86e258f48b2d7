// Package drain is how a server ends: the first SIGTERM or SIGINT ends
// accepting, the second the running connections.
package drain

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Signals returns a context that the first signal ends and one that the second
// ends. The time to drain is for the log alone. The caller calls stop at its
// end, which ends both.
func Signals(log *slog.Logger, drain time.Duration) (accepting, running context.Context, stop func()) {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	accepting, endAccepting := context.WithCancel(context.Background())
	running, endRunning := context.WithCancel(context.Background())
	go func() {
		s := <-signals
		Say(func() { log.Info("draining", "signal", s.String(), "drain", drain) })
		endAccepting()
		s = <-signals
		Say(func() { log.Warn("ending at once", "signal", s.String()) })
		endRunning()
	}()
	return accepting, running, func() { endAccepting(); endRunning() }
}

// Say writes to the log, and goes on after a second when nobody reads it: a full
// pipe must not keep a server from ending.
func Say(write func()) {
	said := make(chan struct{})
	go func() {
		defer close(said)
		write()
	}()
	select {
	case <-said:
	case <-time.After(time.Second):
	}
}
