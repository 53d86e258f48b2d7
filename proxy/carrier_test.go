package main

import (
	"bytes"
	"crypto/rand"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestCarriers moves bytes through each kind, into a socket that is often full.
func TestCarriers(t *testing.T) {
	for name, c := range map[string]struct {
		carriers *carriers
		bulk     bool
	}{
		"small buffer": {&carriers{}, false},
		"large buffer": {&carriers{}, true},
		"pipe":         {&carriers{pipes: pipes{most: 1}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Now()
			in, out := socketPair(t), socketPair(t)
			data := make([]byte, 3<<20+17)
			_, _ = rand.Read(data)
			go func() {
				for rest := data; len(rest) > 0; {
					n, err := unix.Write(in[0], rest)
					if err != nil && err != unix.EAGAIN {
						t.Error(err)
						break
					}
					rest = rest[max(n, 0):]
				}
				_ = unix.Shutdown(in[0], unix.SHUT_WR)
			}()
			var got []byte
			buf := make([]byte, 10_000)
			for {
				carrier := c.carriers.get(c.bulk, now)
				if _, ok := carrier.(*pipe); ok != (c.carriers.pipes.most > 0) {
					t.Fatalf("got a %T", carrier)
				}
				n, err := carrier.fill(in[1])
				if err == unix.EAGAIN {
					c.carriers.put(carrier, now)
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				if n == 0 {
					c.carriers.put(carrier, now)
					break
				}
				for carrier.queued() > 0 {
					if _, err := carrier.drain(out[0]); err != nil && err != unix.EAGAIN {
						t.Fatal(err)
					}
					for n, _ := unix.Read(out[1], buf); n > 0; n, _ = unix.Read(out[1], buf) {
						got = append(got, buf[:n]...)
					}
				}
				c.carriers.put(carrier, now)
			}
			if !bytes.Equal(got, data) {
				t.Errorf("got %d bytes of %d, or others", len(got), len(data))
			}
		})
	}
}

// TestBulkBuffers: slow readers do not cost a large buffer each.
func TestBulkBuffers(t *testing.T) {
	now := time.Now()
	var cs carriers
	var lent []carrier
	for range maxBulk + 10 {
		lent = append(lent, cs.get(true, now))
	}
	large := 0
	for _, c := range lent {
		if len(c.(*buffer).b) == bulkBuffer {
			large++
		}
		cs.put(c, now)
	}
	if large != maxBulk || cs.bulks != 0 {
		t.Errorf("%d large buffers, %d not given back", large, cs.bulks)
	}
}

// TestPipes: a bounded number, reused, closed when dirty or idle.
func TestPipes(t *testing.T) {
	now := time.Now()
	ps := &pipes{most: maxPipes}
	p := ps.get(now)
	if p == nil {
		t.Fatal("no pipe")
	}
	ps.put(p, now)
	if again := ps.get(now); again != p {
		t.Error("an idle pipe is not reused")
	}
	p.n = 1
	ps.put(p, now)
	if ps.lent != 0 || len(ps.idle) != 0 || open(p.r) {
		t.Error("a pipe with bytes in it is kept")
	}

	p = ps.get(now)
	ps.put(p, now)
	if due := ps.sweep(now); due != now.Add(pipeIdle) || !open(p.r) {
		t.Error("an idle pipe is closed early")
	}
	if due := ps.sweep(now.Add(pipeIdle)); !due.IsZero() {
		t.Errorf("come again in %v for nothing", due.Sub(now))
	}
	if len(ps.idle) != 0 || open(p.r) {
		t.Error("an idle pipe is kept")
	}

	ps.lent = maxPipes
	if ps.get(now) != nil {
		t.Errorf("more than %d pipes", maxPipes)
	}
}

func open(fd int) bool {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	return err == nil
}

func socketPair(t *testing.T) [2]int {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = unix.Close(fds[0]), unix.Close(fds[1]) })
	return fds
}
