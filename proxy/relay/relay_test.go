package relay

import (
	"bytes"
	"crypto/rand"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/proxy/sys"
)

// wire is a relay whose far ends are the test's.
type wire struct {
	*testing.T
	Relay
	bufs *Buffers
	far  [2]int
}

func newWire(t *testing.T, pair func(testing.TB) [2]int) *wire {
	w := &wire{T: t, bufs: NewBuffers(1)}
	for i := range w.Sides {
		fds := pair(t)
		w.far[i] = fds[0]
		w.Sides[i] = Side{FD: int32(fds[1]), Writable: true}
	}
	t.Cleanup(func() {
		w.Release(w.bufs, time.Now())
		w.bufs.Close()
	})
	return w
}

// poll waits for one of the events on side i and notes what has come.
func (w *wire) poll(i int, events int16) {
	w.Helper()
	w.Sides[i].Note(w.wait(i, events))
}

// wait is poll without the note. The numbers of poll and epoll are the same.
func (w *wire) wait(i int, events int16) uint32 {
	w.Helper()
	for {
		fds := []unix.PollFd{{Fd: w.Sides[i].FD, Events: events}}
		if _, err := unix.Poll(fds, int(lab.Patience.Milliseconds())); err == unix.EINTR {
			continue
		} else if err != nil || fds[0].Revents == 0 {
			w.Fatalf("side %d: no event of %#x: %v", i, events, err)
		}
		return uint32(fds[0].Revents)
	}
}

func (w *wire) step(want Progress) {
	w.Helper()
	if got, broken := w.Step(w.bufs, time.Now()); got != want || broken != nil {
		w.Fatalf("got %d, %v, want %d", got, broken, want)
	}
}

func (w *wire) say(i int, text string) {
	w.Helper()
	if n, err := sys.Write(w.far[i], []byte(text)); n != len(text) || err != nil {
		w.Fatal(n, err)
	}
}

func (w *wire) hear(i int, want string) {
	w.Helper()
	b := make([]byte, 100)
	n, err := sys.Read(w.far[i], b)
	if err != nil || string(b[:n]) != want {
		w.Fatalf("side %d got %q, %v, want %q", i, b[:max(n, 0)], err, want)
	}
}

// TestHalfClose: the end of one stream is passed on and the other goes on, until it
// has ended, too.
func TestHalfClose(t *testing.T) {
	for _, first := range []int{Client, Application} {
		w := newWire(t, lab.SocketPair)
		second := 1 - first
		w.say(first, "last words")
		_ = sys.CloseWrite(w.far[first])
		w.poll(first, unix.POLLIN|unix.POLLRDHUP)
		w.step(Waits)
		w.hear(second, "last words")
		w.hear(second, "")
		if !w.Over(first) || w.Over(second) {
			t.Error("the wrong half is over")
		}
		w.say(second, "an answer")
		w.poll(second, unix.POLLIN)
		w.step(Waits)
		w.hear(first, "an answer")
		_ = sys.CloseWrite(w.far[second])
		w.poll(second, unix.POLLIN|unix.POLLRDHUP)
		w.step(Closed)
		if w.Moved(first) != int64(len("last words")) || w.Moved(second) != int64(len("an answer")) {
			t.Errorf("moved %d and %d bytes", w.Moved(first), w.Moved(second))
		}
	}
}

// TestBlocked: a receiver that does not read stops its sender, costs one buffer,
// and gets every byte when it reads.
func TestBlocked(t *testing.T) {
	w := newWire(t, lab.SocketPair)
	block := make([]byte, 64<<10)
	_, _ = rand.Read(block)
	var sent, got []byte
	for progress := true; progress; {
		progress = false
		for rest := block; len(rest) > 0; {
			n, err := sys.Write(w.far[Client], rest)
			if err == sys.ErrAgain {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			sent, rest, progress = append(sent, rest[:n]...), rest[n:], true
		}
		w.Sides[Client].Note(unix.EPOLLIN)
		if _, err := w.Step(w.bufs, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if !w.NeedsRoom(Application) || w.NeedsRoom(Client) || w.halves[Client].buf == nil {
		t.Fatal("the relay does not wait for room")
	}
	if held := w.halves[Client].buf.queued(); held > pipeSize {
		t.Errorf("it holds %d bytes", held)
	}
	_ = sys.CloseWrite(w.far[Client])
	w.Sides[Client].Note(unix.EPOLLIN | unix.EPOLLRDHUP)
	b := make([]byte, 1<<20)
	for {
		n, err := sys.Read(w.far[Application], b)
		if err == sys.ErrAgain {
			if w.Over(Client) {
				t.Fatal("the relay passed on no FIN")
			}
			w.poll(Application, unix.POLLOUT)
			if _, err := w.Step(w.bufs, time.Now()); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		got = append(got, b[:n]...)
	}
	if !bytes.Equal(got, sent) {
		t.Errorf("%d bytes came of %d, or others", len(got), len(sent))
	}
	if w.NeedsRoom(Application) || w.halves[Client].buf != nil {
		t.Error("a buffer is still lent")
	}
}

// TestBroken: the error names the side that was reset, whether an event or a write
// to it tells, and what it sent before reaches the other.
func TestBroken(t *testing.T) {
	for broken, name := range sideNames {
		for _, noted := range []bool{true, false} {
			w := newWire(t, lab.TCPPair)
			w.say(broken, "last words")
			w.wait(broken, unix.POLLIN)
			w.reset(broken)
			events := w.wait(broken, unix.POLLERR)
			if noted {
				w.Sides[broken].Note(events)
			} else {
				w.say(1-broken, "to nobody")
				w.poll(1-broken, unix.POLLIN)
			}
			_, b := w.Step(w.bufs, time.Now())
			if b == nil || b.Side != broken || b.How() != name+" reset" {
				t.Fatalf("noted %v: got %v, want the reset of the %s", noted, b, name)
			}
			w.LastWords(broken, w.bufs, time.Now())
			w.hear(1-broken, "last words")
		}
	}
}

// reset makes the far end send a RST. Its descriptor stays one to close.
func (w *wire) reset(i int) {
	w.Helper()
	sys.ResetOnClose(w.far[i])
	if err := unix.Dup3(w.far[1-i], w.far[i], unix.O_CLOEXEC); err != nil {
		w.Fatal(err)
	}
}
