package node_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/tproxy-cni/tproxy-cni/install/node"
)

// TestWatchDies: a watch whose events end returns an error, and does not spin.
func TestWatchDies(t *testing.T) {
	w := node.NewWatcher(slog.New(slog.DiscardHandler), time.Hour, t.TempDir())
	w.Close()
	ends(t, "the watch", func() {
		if err := w.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "file notifications ended") {
			t.Errorf("error is %v", err)
		}
	})
}

// TestWatchEnds: the end of the context is not an error.
func TestWatchEnds(t *testing.T) {
	w := node.NewWatcher(slog.New(slog.DiscardHandler), time.Hour, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ends(t, "the watch", func() {
		if err := w.Run(ctx); err != nil {
			t.Error(err)
		}
	})
}
