package accesslog

import (
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// blockedWriter is a log output that takes nothing while it is locked.
type blockedWriter struct {
	mu  sync.Mutex
	out strings.Builder
}

func (w *blockedWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.Write(b)
}

// TestBlocked: while the output is blocked Add does not wait, and the records that
// are dropped are counted.
func TestBlocked(t *testing.T) {
	w := &blockedWriter{}
	l := New(slog.New(slog.NewTextHandler(w, nil)))
	w.mu.Lock()
	const lines = 3 * queueSize
	for range lines {
		l.Add(Record{Outcome: Outcome{How: Closed}})
	}
	w.mu.Unlock()
	lab.Eventually(t, "what is kept is written", func() error {
		if l.Busy() {
			return io.ErrShortWrite
		}
		return nil
	})
	l.Add(Record{Outcome: Outcome{How: "the last"}})
	l.Close()
	out := w.out.String()
	written := strings.Count(out, "msg=connection")
	// One record was in the writer's hands.
	if written < queueSize || written > queueSize+2 {
		t.Errorf("%d lines are written, want what the queue holds: %d", written, queueSize)
	}
	if n := written + int(l.Dropped()); n != lines+1 {
		t.Errorf("%d lines are written or dropped, want %d", n, lines+1)
	}
	if !strings.Contains(out, `connection records dropped" lines=`) || !strings.Contains(out, `"the last"`) {
		t.Errorf("the dropped records are not counted, or the last is not written:\n%.300s", out)
	}
}

// fullWriter is a log output on a disk that is full.
type fullWriter struct {
	full atomic.Bool
	out  strings.Builder
}

func (w *fullWriter) Write(b []byte) (int, error) {
	if w.full.Load() {
		return 0, syscall.ENOSPC
	}
	return w.out.Write(b)
}

// TestFull: records that the output does not take are counted, and told of once it takes
// lines again.
func TestFull(t *testing.T) {
	w := &fullWriter{}
	w.full.Store(true)
	l := New(slog.New(slog.NewTextHandler(w, nil)))
	const lines = 10
	for range lines {
		l.Add(Record{Outcome: Outcome{How: Closed}})
	}
	l.Flush()
	if n := l.Dropped(); n != lines {
		t.Errorf("%d lines are lost, want %d", n, lines)
	}
	w.full.Store(false)
	l.Add(Record{Outcome: Outcome{How: Closed}})
	l.Close()
	if out := w.out.String(); strings.Count(out, "msg=connection") != 1 || !strings.Contains(out, `connection records dropped" lines=10`) || l.Dropped() != lines {
		t.Errorf("%d lines are lost; written:\n%s", l.Dropped(), out)
	}
}

// TestFlush: what has been added is written when Flush returns; what has been dropped
// before is counted and not told again.
func TestFlush(t *testing.T) {
	w := &blockedWriter{}
	l := New(slog.New(slog.NewTextHandler(w, nil)))
	l.Restore(7, 7)
	for range queueSize {
		l.Add(Record{Outcome: Outcome{How: Closed}})
	}
	l.Flush()
	w.mu.Lock()
	out := w.out.String()
	w.mu.Unlock()
	if n := strings.Count(out, "msg=connection"); n+int(l.Dropped())-7 != queueSize || strings.Contains(out, "dropped") != (l.Dropped() > 7) {
		t.Errorf("%d lines are written and %d dropped, want %d", n, l.Dropped()-7, queueSize)
	}
	l.Close()
}

// TestLevels: a record below the level is not written, and the level may change.
func TestLevels(t *testing.T) {
	for _, tt := range []struct {
		level slog.Level
		want  string // how those end that are written
	}{
		{slog.LevelError, ""},
		{slog.LevelWarn, "exhausted"},
		{slog.LevelInfo, "closed exhausted"},
		{slog.LevelDebug, "client silent closed exhausted"},
	} {
		var out strings.Builder
		var level slog.LevelVar
		level.Set(slog.LevelError)
		l := New(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: &level})))
		level.Set(tt.level)
		for _, how := range []string{Silent, Closed, Exhausted} {
			l.Add(Record{Outcome: Outcome{How: how}})
		}
		l.Close()
		var got []string
		for line := range strings.Lines(out.String()) {
			_, how, _ := strings.Cut(line, "end=")
			got = append(got, strings.Trim(how, "\"\n"))
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%v: %q, want %q", tt.level, got, tt.want)
		}
	}
}
