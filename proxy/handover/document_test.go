package handover

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/proxy/dial"
	"github.com/tproxy-cni/tproxy-cni/proxy/probe"
	"github.com/tproxy-cni/tproxy-cni/proxy/relay"
	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
	"github.com/tproxy-cni/tproxy-cni/proxy/stats"
)

// some is a connection with all that one can have.
func some() Conn {
	return Conn{
		Loop: 2, Client: netip.MustParseAddrPort("192.0.2.1:4711"), Dst: netip.MustParseAddrPort("[2001:db8::1]:80"),
		Peer: netip.MustParseAddrPort("198.51.100.1:1"), Port: 4711, Began: 1, Logged: true, Dialing: 5, Yielded: true, Lingers: true, Served: true, Halved: 7,
		Attempt: dial.Handed{Held: 4711, Leased: 4712, Plain: true, Named: true, Tries: 3, Retold: true},
		Relay: relay.Handed{
			Sides:  [2]relay.Side{{FD: 8, Readable: true, Writable: true, Tunes: true, Ended: true, Failed: true}, {FD: 9}},
			Halves: [2]relay.HandedHalf{{Total: 1 << 40, Bulk: true, Ended: true, Over: true, Bytes: []byte{0, 255}}, {Pipe: &relay.HandedPipe{R: 10, W: 11, Bytes: 3}}},
		},
	}
}

func write(t testing.TB, s *State, conns ...Conn) *Document {
	t.Helper()
	s.Connections = len(conns)
	d, err := Write(s, func(add func(*Conn) error) (err error) {
		for i := range conns {
			err = errors.Join(err, add(&conns[i]))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

// all is a state with all that there can be.
func all() State {
	return State{
		Format: Format, Version: "v1", Mode: "nat", Level: 4, Began: 1, Frozen: 2,
		Counters: stats.Snapshot{Accepted: 9}, // what is counted is not of the format
		Pod: Pod{
			Fault: &probe.Fault{Reason: probe.Rules, Text: "text", Cure: "cure"}, Ports: &probe.Fault{Reason: probe.Ports},
			Guard: "nft", Checked: time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC),
		},
		Admin: Listener{FD: 3, Addr: netip.MustParseAddrPort("[::]:5001")},
		Listeners: []Listener{
			{FD: 4, Addr: netip.MustParseAddrPort("[::]:5000"), Waiting: []Arrival{{5, netip.MustParseAddrPort("192.0.2.1:1")}}},
			{FD: 6, Unix: &sock.UnixListener{Path: "/a", Dev: 1, Ino: 2}},
		},
		Arrivals: []Arrival{{7, netip.MustParseAddrPort("192.0.2.1:1")}},
	}
}

// TestFormat: what this format is. What earlier programs have written must be read, and
// what they cannot read changes Format.
func TestFormat(t *testing.T) {
	s := all()
	d := write(t, &s, some(), Conn{})
	got, err := io.ReadAll(io.NewSectionReader(d.file, 0, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	file := "testdata/format1.json"
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("the format has changed (-%s +now):\n%s", file, diff)
	}
}

// TestDocument: what is written is read, by whoever has the file, as often as they like.
func TestDocument(t *testing.T) {
	s := all()
	d := write(t, &s, some(), Conn{})
	if got := slices.Sorted(slices.Values(d.fds)); !slices.Equal(got, []int{0, 0, 3, 4, 5, 6, 7, 8, 9, 10, 11}) {
		t.Errorf("its descriptors are %v", got)
	}
	for range 2 {
		r, err := Read(d.file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(s, r.State, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
			t.Error(diff)
		}
		var got Conn
		if err := r.Next(&got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(some(), got, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
			t.Error(diff)
		}
		if err := errors.Join(r.Next(&got), r.Next(&got)); !errors.Is(err, io.EOF) {
			t.Errorf("after the last: %v", err)
		}
	}
	if _, err := d.file.WriteAt([]byte("x"), 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("the document can be changed: %v", err)
	}
}

// TestUnknown: a document that this program does not know in full is refused, and the
// error says why.
func TestUnknown(t *testing.T) {
	for text, want := range map[string]string{
		``:                              "not complete",
		"{}\n":                          "format 0, and this program knows format 1",
		`{"format":2,"mode":{}}` + "\n": "format 2, and this program knows format 1",
		`{"format":1,"grues":3}` + "\n": `unknown field "grues"`,
		`{"format":1}` + "\n":           "no listener",
		`{"format":1,"listeners":[{}],"connections":1}` + "\n":               "not complete",
		`{"format":1,"listeners":[{}],"connections":1}` + "\n{\"grue\":1}\n": `unknown field "grue"`,
	} {
		file, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if _, err := file.WriteString(text); err != nil {
			t.Fatal(err)
		}
		r, err := Read(file)
		if err == nil {
			err = r.Agree(io.Discard)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// TestCheck: only a program that says so can take over. One that never answers is ended.
func TestCheck(t *testing.T) {
	d := write(t, &State{Format: Format, Listeners: []Listener{{}}})
	for script, want := range map[string]string{
		"echo takes over": "",
		"true":            "is no sidecar that can take over",
		"echo takes over; echo but not this >&2; exit 3": "exit status 3: but not this",
		`test "$LISTEN_FDS" = "" && test "$TPROXY_HANDOVER" = "check 3" && grep -q '"format":1' /proc/self/fd/3 && echo takes over`: "",
	} {
		t.Setenv("LISTEN_FDS", "1")
		p := Program{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: environment(os.Environ())}
		err := d.Check(t.Context(), p)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", script, err, want)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := d.Check(ctx, Program{Path: "/bin/sh", Args: []string{"sh", "-c", "sleep 1000"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("a check that is given up: %v", err)
	}
}

// TestBecomeFails: after an exec that fails nothing has changed: no program that is started
// inherits what was meant for the other, and signals are not blocked.
func TestBecomeFails(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	d := write(t, &State{Format: Format, Admin: Listener{FD: int32(r.Fd())}, Listeners: []Listener{{FD: int32(w.Fd())}}})
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ending := make(chan os.Signal, 1)
	if err := d.Become(ending, Program{Path: "/nowhere", Args: []string{"x"}}); !errors.Is(err, unix.ENOENT) {
		t.Errorf("%v, want %v", err, unix.ENOENT)
	}
	ending <- unix.SIGTERM
	fails := Program{Path: "/bin/false", Args: []string{"false"}} // and with it this test
	if fails.file, err = os.Stat(fails.Path); err != nil {
		t.Fatal(err)
	}
	if err := d.Become(ending, fails); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want %v", err, context.Canceled)
	}
	for _, fd := range d.fds {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("descriptor %d would be inherited: %v", fd, err)
		}
	}
	var mask unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, nil, &mask); err != nil || mask.Val[0]&atTheEnd.Val[0] != 0 {
		t.Errorf("signals are blocked: %x (%v)", mask.Val[0], err)
	}
}

// TestClock: a moment is the same time later, and in another process.
func TestClock(t *testing.T) {
	began := time.Now().Add(-time.Second)
	m := NewClock().Moment(began)
	again := NewClock().Time(m)
	if d := again.Sub(began).Abs(); d > time.Millisecond {
		t.Errorf("it is %v off", d)
	}
	if m <= 0 {
		t.Errorf("a moment before the machine's start: %d", m)
	}
}

func BenchmarkDocument(b *testing.B) {
	var all []Conn
	c := Conn{
		Client: netip.MustParseAddrPort("192.0.2.1:4711"), Dst: netip.MustParseAddrPort("192.0.2.9:80"), Port: 4711, Began: 12345678901234,
		Relay: relay.Handed{Sides: [2]relay.Side{{FD: 1234, Writable: true}, {FD: 1235, Writable: true}}, Halves: [2]relay.HandedHalf{{Total: 1234}, {Total: 123456}}},
	}
	for range 10_000 {
		all = append(all, c)
	}
	s := State{Format: Format, Listeners: []Listener{{}}}
	b.Run("write", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			write(b, &s, all...).Close()
		}
	})
	d := write(b, &s, all...)
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r, err := Read(d.file)
			if err == nil {
				err = r.Agree(io.Discard)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}
