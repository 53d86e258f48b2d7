package relay

import (
	"bytes"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/proxy/sys"
)

// TestHandOver: what a relay holds, in a pipe, in a large and in a small buffer, goes on
// in the relay that takes it over, and the buffers come back.
func TestHandOver(t *testing.T) {
	for _, tt := range []struct {
		name  string
		loops int // with so many there is no pipe
		block int
	}{{"pipe", 1, smallBuffer}, {"large", 2 * MaxPipes, smallBuffer}, {"small", 1, minSplice / 2}} {
		t.Run(tt.name, func(t *testing.T) {
			in, out := lab.TCPPair(t), lab.TCPPair(t)
			bufs := NewBuffers(tt.loops)
			r := &Relay{Sides: [2]Side{{FD: int32(in[1]), Readable: true, Writable: true}, {FD: int32(out[0]), Writable: true}}}
			r.halves[Client].bulk = tt.block == smallBuffer
			if err := sys.SetInt(out[0], unix.SOL_SOCKET, unix.SO_SNDBUF, 4096); err != nil {
				t.Fatal(err)
			}
			var sent, got []byte
			block := make([]byte, tt.block)
			send := func() {
				for i := range block {
					block[i] = byte(len(sent) + i*i)
				}
				n, err := sys.Write(in[0], block)
				if err != nil && err != sys.ErrAgain {
					t.Fatal(err)
				}
				sent = append(sent, block[:max(0, n)]...)
			}
			step := func() {
				r.Sides[Client].Readable, r.Sides[Application].Writable = true, true
				if _, broken := r.Step(bufs, time.Now()); broken != nil {
					t.Fatal(broken)
				}
			}
			for range 1000 {
				send()
				if step(); r.halves[Client].buf != nil && r.halves[Client].buf.queued() > 0 {
					break
				}
			}
			h := r.HandOver()
			if held := h.Halves[Client]; (held.Pipe != nil) != (tt.name == "pipe") || (len(held.Bytes) > 0) == (tt.name == "pipe") {
				t.Fatalf("it holds %d bytes and the pipe %+v", len(held.Bytes), held.Pipe)
			}
			moved := r.Moved(Client)

			bufs = NewBuffers(tt.loops)
			t.Cleanup(bufs.Close)
			*r = Relay{}
			r.TakeOver(h, bufs)
			if r.Moved(Client) != moved {
				t.Errorf("moved %d, and now %d", moved, r.Moved(Client))
			}
			for len(got) < len(sent) {
				step()
				n, err := sys.Read(out[1], block)
				if err != nil && err != sys.ErrAgain {
					t.Fatal(err)
				}
				got = append(got, block[:max(0, n)]...)
			}
			if !bytes.Equal(got, sent) {
				t.Error("other bytes arrive")
			}
			step()
			if n := bufs.smalls + bufs.bulks + bufs.pipes.lent; n != 0 {
				t.Errorf("%d buffers are not back", n)
			}
		})
	}
}

// TestTakeOverLarge: of a version with larger buffers no byte is lost.
func TestTakeOverLarge(t *testing.T) {
	in, out := lab.TCPPair(t), lab.TCPPair(t)
	bufs := NewBuffers(1)
	held := bytes.Repeat([]byte("0123456789abcde\n"), 2*bulkBuffer/16)
	r := &Relay{}
	r.TakeOver(Handed{
		Sides:  [2]Side{{FD: int32(in[1]), Writable: true}, {FD: int32(out[0]), Writable: true}},
		Halves: [2]HandedHalf{{Bytes: held}},
	}, bufs)
	got := make([]byte, 0, len(held)+1)
	for len(got) < len(held) && (r.halves[Client].buf != nil || len(got) < int(r.Moved(Client))) {
		r.Sides[Application].Writable = true
		if _, broken := r.Step(bufs, time.Now()); broken != nil {
			t.Fatal(broken)
		}
		n, err := sys.Read(out[1], got[len(got):cap(got)])
		if err != nil && err != sys.ErrAgain {
			t.Fatal(err)
		}
		got = got[:len(got)+max(0, n)]
	}
	if !bytes.Equal(got, held) {
		t.Errorf("%d bytes arrive of %d, or others", len(got), len(held))
	}
	if n := bufs.smalls + bufs.bulks; n != 0 {
		t.Errorf("%d buffers are not back", n)
	}
}
