package stats

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/proxy/accesslog"
)

// TestSum: two loops' counters are summed, under the right names.
func TestSum(t *testing.T) {
	var a, b Loop
	a.Relayed = &[2]atomic.Int64{}
	a.Relayed[0].Store(5)
	a.Relayed[1].Store(6)
	a.Accepted.Store(10) // the first loop accepts for all
	for _, l := range []*Loop{&a, &b} {
		l.End(accesslog.Closed)
		l.End("client reset")
		l.HalfClosed.Add(2)
		l.Retries.Add(1)
		l.Established(Address, 3*time.Millisecond)
		l.Pause(PauseOf(unix.ENFILE))
		l.Pause(PauseOf(unix.EPROTO))
		for _, err := range []error{
			os.NewSyscallError("connect", unix.ECONNREFUSED),
			fmt.Errorf("wrapped: %w", os.NewSyscallError("bind", unix.EADDRINUSE)),
			os.NewSyscallError("connect", os.ErrDeadlineExceeded),
			os.NewSyscallError("connect", unix.ENETDOWN),
			errors.New("no errno"),
		} {
			l.DialFailed(err)
		}
	}
	s := Sum(&a, &b)
	for what, got := range map[string][2]int64{
		"accepted": {s.Accepted, 10}, "active": {s.Active, 6}, "half-closed": {s.HalfClosed, 4}, "retries": {s.DialRetries, 2},
		"up": {s.RelayedUp, 5}, "down": {s.RelayedDown, 6},
		"closed": {s.Closed["closed"], 2}, "client reset": {s.Closed["client reset"], 2}, "drained": {s.Closed["drained"], 0},
		"address": {s.Spoofs["address"], 2}, "address_port": {s.Spoofs["address_port"], 0},
		"dials": {s.Dials.Count(), 2}, "dials of up to 10 ms": {s.Dials.Buckets[2], 2}, "their sum": {int64(s.Dials.Sum), 6e6},
		"ECONNREFUSED": {s.DialErrors["ECONNREFUSED"], 2}, "EADDRINUSE": {s.DialErrors["EADDRINUSE"], 2},
		"ETIMEDOUT": {s.DialErrors["ETIMEDOUT"], 2}, "other": {s.DialErrors["other"], 4},
		"files": {s.Pauses["files"], 2}, "other pauses": {s.Pauses["other"], 2}, "limit": {s.Pauses["limit"], 0},
		"ends": {int64(len(s.Closed)), int64(len(accesslog.Ends))}, "errnos": {int64(len(s.DialErrors)), int64(len(Errnos()))},
	} {
		if got[0] != got[1] {
			t.Errorf("%s: %d, want %d", what, got[0], got[1])
		}
	}
}

// TestRestore: a loop that takes over counts on from what others have counted, also
// under names that it does not know.
func TestRestore(t *testing.T) {
	var old Loop
	old.Relayed = &[2]atomic.Int64{}
	old.Relayed[1].Store(7)
	old.Accepted.Store(5)
	old.Retries.Store(2)
	old.HalfClosed.Store(1)
	old.End(accesslog.Closed)
	old.End(accesslog.Crowded)
	old.Established(AddressPort, 3*time.Millisecond)
	old.DialFailed(unix.ECONNREFUSED)
	old.Pause(PauseFiles)
	want := Sum(&old)

	l := Loop{Relayed: &[2]atomic.Int64{}}
	l.Restore(want)
	want.HalfClosed = 0 // whoever takes the connection over counts it
	got := Sum(&l)
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	l = Loop{}
	want.Closed["eaten by a grue"] = 2
	l.Restore(want)
	if got := Sum(&l); got.Active != 1 || got.Closed[accesslog.Failed] != 2 {
		t.Errorf("%d active, %d failed, want 1 and 2", got.Active, got.Closed[accesslog.Failed])
	}
}

// TestNoAllocation: counting takes no memory.
func TestNoAllocation(t *testing.T) {
	var l Loop
	if n := testing.AllocsPerRun(100, func() {
		l.End(accesslog.Crowded)
		l.Established(None, time.Minute)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkConnection is all that is counted of a short connection.
func BenchmarkConnection(b *testing.B) {
	var l Loop
	b.ReportAllocs()
	for b.Loop() {
		l.Accepted.Add(1)
		l.Established(AddressPort, 20*time.Microsecond)
		l.HalfClosed.Add(1)
		l.HalfClosed.Add(-1)
		l.End(accesslog.Closed)
	}
}
