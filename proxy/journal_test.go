package main

import (
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/internal/lab"
)

// stuckWriter is a reader of the log that reads nothing until it is let go.
type stuckWriter struct {
	mu  sync.Mutex
	out strings.Builder
}

func (w *stuckWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.Write(b)
}

// TestJournal: who reads the log slowly loses lines and learns how many, but
// holds nobody up.
func TestJournal(t *testing.T) {
	w := &stuckWriter{}
	j := newJournal(slog.New(slog.NewTextHandler(w, nil)))
	w.mu.Lock()
	const lines = 3 * journalSize
	for range lines {
		j.add(record{ending: ending{how: endClosed}})
	}
	w.mu.Unlock()
	lab.Eventually(t, "what is kept is written", func() error {
		if j.busy() {
			return io.ErrShortWrite
		}
		return nil
	})
	j.add(record{ending: ending{how: "the last"}})
	j.close()
	out := w.out.String()
	written := strings.Count(out, "msg=connection")
	// One record was in the writer's hands.
	if written < journalSize || written > journalSize+2 {
		t.Errorf("%d lines are written, want what the journal keeps: %d", written, journalSize)
	}
	if !strings.Contains(out, `lines of connections are lost" lines=`) || !strings.Contains(out, `"the last"`) {
		t.Errorf("no word of the lines that are lost, or not the last line:\n%.300s", out)
	}
}

// TestJournalLevels: a line that nobody wants costs nothing, and at debug level
// none is lost.
func TestJournalLevels(t *testing.T) {
	for level, want := range map[slog.Level][]string{
		slog.LevelError: nil,
		slog.LevelWarn:  {"end=exhausted"},
		slog.LevelInfo:  {"end=closed", "end=exhausted"},
		slog.LevelDebug: {"end=closed", "end=exhausted"},
	} {
		var out strings.Builder
		j := newJournal(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level})))
		j.add(record{ending: ending{how: endClosed}})
		j.add(record{ending: ending{how: endExhausted}})
		j.close()
		if n := strings.Count(out.String(), "\n"); n != len(want) {
			t.Errorf("%v: %d lines, want %d: %s", level, n, len(want), out.String())
		}
		for _, w := range want {
			if !strings.Contains(out.String(), w) {
				t.Errorf("%v: no %s in %q", level, w, out.String())
			}
		}
	}
}
