package handover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/proxy/sys"
)

// holder serves until the test ends. It sends what it holds after each connection.
func holder(t *testing.T) (path string, holds <-chan *Held) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "hold.sock")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	states := make(chan *Held)
	go func() {
		var held *Held
		for {
			conn, err := ln.AcceptUnix()
			if err != nil {
				return
			}
			held, _ = Serve(t.Context(), conn, held)
			states <- held
		}
	}()
	return path, states
}

// TestHeld: more descriptors than go in one message are kept, and each gets to the place
// of the document where it was. As long as nobody says that it goes on with them, the
// holder has them.
func TestHeld(t *testing.T) {
	path, holds := holder(t)
	s := &State{Format: Format, Version: "v1", Listeners: []Listener{{}}}
	var files []uint64
	for i := range 2*mostRights + 7 {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		defer w.Close()
		files = append(files, inode(t, int(r.Fd())))
		switch i {
		case 0:
			s.Admin.FD = int32(r.Fd())
		case 1:
			s.Listeners[0].FD = int32(r.Fd())
		default:
			s.Arrivals = append(s.Arrivals, Arrival{int32(r.Fd()), netip.MustParseAddrPort("192.0.2.1:1")})
		}
	}
	c := Conn{}
	c.Relay.Sides[0].FD, c.Relay.Sides[1].FD = int32(os.Stdout.Fd()), -1
	files = append(files, inode(t, int(os.Stdout.Fd())))
	d := write(t, s, c)

	if o, err := Ask(path); o != nil || err != nil {
		t.Fatalf("an empty holder offers %v, %v", o, err)
	}
	<-holds
	if err := d.Keep(path); err != nil {
		t.Fatal(err)
	}
	if h := <-holds; h.Len() != len(files) {
		t.Fatalf("%d descriptors are held, want %d", h.Len(), len(files))
	}
	for _, end := range []string{"looks", "takes and dies", "goes on"} {
		o, err := Ask(path)
		if o == nil || err != nil {
			t.Fatal(o, err)
		}
		r, err := o.Look()
		if err != nil || r.State.Version != "v1" {
			t.Fatal(r, err)
		}
		if end != "looks" {
			if r, err = o.Take(); err != nil {
				t.Fatal(err)
			}
			var got []uint64
			for _, fd := range r.State.Descriptors() {
				got = append(got, inode(t, int(*fd)))
				defer unix.Close(int(*fd))
			}
			if err := r.Next(&c); err != nil {
				t.Fatal(err)
			}
			got = append(got, inode(t, int(c.Relay.Sides[0].FD)))
			defer unix.Close(int(c.Relay.Sides[0].FD))
			if fmt.Sprint(got) != fmt.Sprint(files) {
				t.Errorf("the descriptors are others, or in another order")
			}
		}
		o.Done(end == "goes on")
		if h := <-holds; (h == nil) != (end == "goes on") {
			t.Errorf("after one that %s the holder has %v", end, h)
		}
	}
	if o, err := Ask(path); o != nil || err != nil {
		t.Errorf("a holder that has given everything offers %v, %v", o, err)
	}
	<-holds
}

func inode(t *testing.T, fd int) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

// TestHeldHalf: of a sidecar that ends while it gives, a holder keeps nothing; and it goes
// on after whatever it is told.
func TestHeldHalf(t *testing.T) {
	path, holds := holder(t)
	before := open(t)
	for _, say := range []func(p peer) error{
		func(p peer) error { return nil },
		func(p peer) error { return p.send("good morning") },
		func(p peer) error { return p.send("keep 7") },
		func(p peer) error { return p.send("keep 7", 0) },
		func(p peer) error {
			_, err := p.Write([]byte(strings.Repeat("x", 1000)))
			return err
		},
	} {
		p, err := visit(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := say(p); err != nil {
			t.Fatal(err)
		}
		p.Close()
		if h := <-holds; h != nil {
			t.Errorf("it holds %d descriptors", h.Len())
		}
	}
	if after := open(t); after != before {
		t.Errorf("%d descriptors are open, %d were before", after, before)
	}
	if o, err := Ask(filepath.Join(t.TempDir(), "none")); o != nil || err != nil {
		t.Errorf("where there is no holder: %v, %v", o, err)
	}
}

// TestHeldEnd: a holder that has to end does not wait for a sidecar that has taken all and
// says nothing, and does not reset the connections: that one may go on with them.
func TestHeldEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hold.sock")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	there, here := lab.TCPPair(t), lab.TCPPair(t)
	d := write(t, &State{Format: Format, Admin: Listener{FD: int32(there[0])}, Listeners: []Listener{{FD: int32(here[0])}}})
	kept := make(chan error, 1)
	go func() { kept <- d.Keep(path) }()
	conn, err := ln.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	held, err := Serve(t.Context(), conn, nil)
	if err := errors.Join(err, <-kept); err != nil {
		t.Fatal(err)
	}

	ctx, end := context.WithCancel(t.Context())
	taken := make(chan *Reader, 1)
	go func() {
		defer end()
		o, err := Ask(path)
		if err != nil {
			t.Error(err)
			return
		}
		r, err := o.Take()
		if err != nil {
			t.Error(err)
		}
		taken <- r
		t.Cleanup(func() { o.Done(false) })
	}()
	if conn, err = ln.AcceptUnix(); err != nil {
		t.Fatal(err)
	}
	after, err := Serve(ctx, conn, held)
	if after != held || err == nil {
		t.Fatalf("it holds %v, %v", after, err)
	}
	held.Close(true)
	for _, fd := range (<-taken).State.Descriptors() {
		if reset, err := sys.GetInt(int(*fd), unix.SOL_SOCKET, unix.SO_LINGER); err != nil || reset != 0 {
			t.Errorf("descriptor %d: its close would be a reset (%v)", *fd, err)
		}
		unix.Close(int(*fd))
	}
}

// TestHeldLate: when a holder says at the last moment that it has everything, the sidecar
// takes its word. After that moment the holder cannot say it any more, and gives up what it
// has: if both had the connections, the next sidecar would send bytes a second time.
func TestHeldLate(t *testing.T) {
	for _, late := range []bool{false, true} {
		sidecar, holder := peers(t)
		if !late {
			if err := holder.send("kept"); err != nil {
				t.Fatal(err)
			}
		}
		if err := sidecar.kept(time.Now().Add(-time.Second)); (err == nil) == late {
			t.Errorf("late %t: the sidecar gets %v", late, err)
		}
		if late {
			if err := holder.send("kept"); !errors.Is(err, unix.EPIPE) {
				t.Errorf("too late: the holder gets %v, want %v", err, unix.EPIPE)
			}
		}
	}
}

// peers are the two ends of a connection.
func peers(t *testing.T) (a, b peer) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range []*peer{&a, &b} {
		file := os.NewFile(uintptr(fds[i]), "peer")
		conn, err := net.FileConn(file)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		*p = peer{conn.(*net.UnixConn), peerPatience}
	}
	return a, b
}

// open is how many descriptors this process has.
func open(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}
