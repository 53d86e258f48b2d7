package main

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
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

// TestLogUnread: with the pipe of its log full a sidecar goes on to serve, and
// tells how many lines are lost once somebody reads again; and it ends in order
// although nobody does.
func TestLogUnread(t *testing.T) {
	for _, read := range []bool{true, false} {
		t.Run(fmt.Sprintf("read in the end: %v", read), func(t *testing.T) {
			t.Parallel()
			p := prepared(t, contract.ModeNAT)
			ours, theirs, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer ours.Close()
			args := p.user().Args(sidecarCommand(t, "--mode", p.mode)...)
			cmd := exec.Command(args[0], args[1:]...)
			cmd.Stderr = theirs
			p.sidecar = p.Pod.StartCmd(cmd).WaitListen(contract.ProxyPort, contract.AdminPort)
			theirs.Close()
			p.waitReady()

			const lineLength = 150 // at least
			pipe, err := unix.FcntlInt(ours.Fd(), unix.F_SETPIPE_SZ, os.Getpagesize())
			if err != nil {
				t.Fatal(err)
			}
			connections := pipe/lineLength + 50
			if read {
				connections += journalSize
			}
			a := p.listen(t, 0).echo()
			for i := range connections {
				c := p.dial(t, []ipFamily{ip4, ip6}[i%2], a.port)
				if _, err := c.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
				if err := c.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				if b, err := io.ReadAll(c); err != nil || string(b) != "x" {
					t.Fatalf("got %q and %v", b, err)
				}
				c.Close()
			}
			if read {
				wantAll(t, ours, connections)
			}
			if err := p.sidecar.Stop(); err != nil {
				t.Errorf("ended with %v", err)
			}
		})
	}
}

// wantAll reads the log until it has told of each connection, by a line or as
// one that is lost. Some must be.
func wantAll(t *testing.T, log io.Reader, connections int) {
	t.Helper()
	told, lost := 0, 0
	for lines := bufio.NewScanner(log); told+lost < connections && lines.Scan(); {
		switch line := parseLine(lines.Text()); {
		case line["msg"] == "connection":
			told++
		case line["lines"] != "":
			n, err := strconv.Atoi(line["lines"])
			if err != nil {
				t.Fatal(err)
			}
			lost += n
		}
	}
	if told+lost != connections || lost == 0 {
		t.Errorf("the log tells of %d connections and %d lost ones, want %d together", told, lost, connections)
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
