package relay

import (
	"bytes"
	"crypto/rand"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// TestBufferKinds moves bytes through each kind, into a socket that is often full.
func TestBufferKinds(t *testing.T) {
	for name, c := range map[string]struct {
		bufs *Buffers
		bulk bool
	}{
		"small buffer": {&Buffers{}, false},
		"large buffer": {&Buffers{}, true},
		"pipe":         {&Buffers{pipes: pipes{most: 1}}, true},
		"none left":    {&Buffers{smalls: maxSmall}, false},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Now()
			in, out := lab.TCPPair(t), lab.SocketPair(t)
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
				b := c.bufs.get(c.bulk, now)
				if _, ok := b.(*pipe); ok != (c.bufs.pipes.most > 0) {
					t.Fatalf("got a %T", b)
				}
				if _, ok := b.(*peekBuffer); ok != (name == "none left") {
					t.Fatalf("got a %T", b)
				}
				n, err := b.fill(in[1])
				if err == unix.EAGAIN {
					c.bufs.put(b, now)
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				if n == 0 {
					c.bufs.put(b, now)
					break
				}
				for b.queued() > 0 {
					if _, err := b.drain(out[0]); err != nil && err != unix.EAGAIN {
						t.Fatal(err)
					}
					for n, _ := unix.Read(out[1], buf); n > 0; n, _ = unix.Read(out[1], buf) {
						got = append(got, buf[:n]...)
					}
				}
				c.bufs.put(b, now)
			}
			if !bytes.Equal(got, data) {
				t.Errorf("got %d bytes of %d, or others", len(got), len(data))
			}
		})
	}
}

// TestBuffers: slow readers do not cost a buffer each. Once all buffers are lent,
// bytes stay in the kernel.
func TestBuffers(t *testing.T) {
	now := time.Now()
	var bs Buffers
	var lent []buffer
	for range maxBulk + maxSmall + 10 {
		lent = append(lent, bs.get(true, now))
	}
	sizes := map[int]int{}
	for _, c := range lent {
		if b, ok := c.(*heapBuffer); ok {
			sizes[len(b.b)]++
		}
		bs.put(c, now)
	}
	if sizes[bulkBuffer] != maxBulk || sizes[smallBuffer] != maxSmall || bs.bulks != 0 || bs.smalls != 0 {
		t.Errorf("buffers by size %v; %d and %d not given back", sizes, bs.bulks, bs.smalls)
	}
	if _, ok := bs.get(false, now).(*heapBuffer); !ok {
		t.Error("no buffer where there are some again")
	}
}

// TestPipes: a limited number, reused, closed when dirty or idle.
func TestPipes(t *testing.T) {
	now := time.Now()
	ps := &pipes{most: MaxPipes}
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

	ps.lent = MaxPipes
	if ps.get(now) != nil {
		t.Errorf("more than %d pipes", MaxPipes)
	}
}

func open(fd int) bool {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	return err == nil
}
