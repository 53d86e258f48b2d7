// Package lab makes network namespaces, wires them and runs programs in them,
// for the tests and the demo. The kernel is the real one.
//
//	   client                     node                        pod
//	┌───────────┐        ┌─────────────────────┐        ┌─────────────┐
//	│ eth0 ─────┼────────┼─ client0     pod0 ──┼────────┼─ eth0       │
//	│ .1.2 .1.3 │        │  .1.1        .2.1   │        │  .2.2       │
//	└───────────┘        └─────────────────────┘        └─────────────┘
//	192.168.1.0/24          forwards v4 and v6           192.168.2.0/24
//	fd00:1::/64                                          fd00:2::/64
//
// The client's default route is the node. The pod's half of the picture is
// there after [Net.Wire]; without it the pod is an empty namespace with lo down,
// as a container runtime hands it to a CNI plugin.
package lab

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"time"
)

// TB is the part of testing.TB that the lab needs; [Main] makes one outside of
// go test.
type TB interface {
	Helper()
	Name() string
	Cleanup(func())
	Failed() bool
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
}

// Need requires root and the named programs. Without them a test is skipped, or
// fails where CI is set in the environment, so that CI never skips one unnoticed.
// NO_ROOT=1, which `make check` sets, skips all that need root or a program, for
// root and with CI, too.
func Need(t TB, programs ...string) {
	t.Helper()
	if os.Getenv("NO_ROOT") != "" {
		t.Skipf("NO_ROOT is set")
	}
	if os.Geteuid() != 0 {
		lack(t, "needs root")
	}
	for _, p := range programs {
		if _, err := Look(p); err != nil {
			lack(t, "needs %s: %v", p, err)
		}
	}
}

// NeedProcessor is Need for a test with machine code of one processor, as Go names it.
func NeedProcessor(t TB, name string) {
	t.Helper()
	if runtime.GOARCH != name {
		lack(t, "has code for %s, and this is %s", name, runtime.GOARCH)
	}
}

// lack skips a test that cannot run here; with CI set it fails.
func lack(t TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// Look finds a program in PATH or where Debian keeps the administrator's ones,
// which an ordinary user's PATH leaves out.
func Look(program string) (string, error) {
	path, err := exec.LookPath(program)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path, nil
		}
	}
	return "", err
}

// Main runs story with a TB of its own, for programs that are not tests, and then
// its cleanups: also when the story fails and when ctx ends (Ctrl-C). What the story
// logs goes to log. The error is the story's first failure.
func Main(ctx context.Context, log io.Writer, story func(TB)) error {
	m := &mainTB{log: log}
	done := make(chan struct{})
	go func() {
		defer close(done)
		story(m)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		m.fail(ctx.Err())
	}
	m.cleanup()
	select {
	case <-done: // what it made meanwhile is undone, too: see Cleanup
	case <-time.After(Patience):
	}
	return m.err
}

// mainTB is the TB of Main.
type mainTB struct {
	log io.Writer

	mu       sync.Mutex
	cleanups []func()
	ended    bool
	err      error
}

func (m *mainTB) Helper()                        {}
func (m *mainTB) Name() string                   { return "main" }
func (m *mainTB) Logf(format string, a ...any)   { fmt.Fprintf(m.log, format+"\n", a...) }
func (m *mainTB) Skipf(format string, a ...any)  { m.Fatalf(format, a...) }
func (m *mainTB) Fatalf(format string, a ...any) { m.fail(fmt.Errorf(format, a...)); runtime.Goexit() }

func (m *mainTB) Failed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err != nil
}

func (m *mainTB) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.err = err
	}
}

// Cleanup registers f. A story that was interrupted may still be running: what
// it makes after the cleanups is undone at once, and the story ends there.
func (m *mainTB) Cleanup(f func()) {
	m.mu.Lock()
	ended := m.ended
	if !ended {
		m.cleanups = append(m.cleanups, f)
	}
	m.mu.Unlock()
	if ended {
		f()
		runtime.Goexit()
	}
}

func (m *mainTB) cleanup() {
	m.mu.Lock()
	fs := m.cleanups
	m.cleanups, m.ended = nil, true
	m.mu.Unlock()
	for i := len(fs) - 1; i >= 0; i-- {
		fs[i]()
	}
}

// Output is what a program or a log writes, for a test to read at the same time.
type Output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
