package main

import (
	"errors"
	"log/slog"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/ranges"
	"github.com/tproxy-cni/tproxy-cni/proxy/accesslog"
	"github.com/tproxy-cni/tproxy-cni/proxy/dial"
	"github.com/tproxy-cni/tproxy-cni/proxy/proxyproto"
	"github.com/tproxy-cni/tproxy-cni/proxy/relay"
	"github.com/tproxy-cni/tproxy-cni/proxy/sys"
)

func TestTrusted(t *testing.T) {
	from := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	for _, tt := range []struct {
		trusted
		peer string
		port uint16
		want bool
	}{
		{trusted{}, "192.0.2.1", 80, false},
		{trusted{from, nil}, "192.0.2.1", 80, true},
		{trusted{from, nil}, "2001:db8::1", 80, true},
		{trusted{from, nil}, "192.0.3.1", 80, false},
		{trusted{from, nil}, "::ffff:192.0.2.1", 80, false}, // accept never returns one
		{trusted{from, []ranges.Ports{{Low: 80, High: 81}, {Low: 90, High: 90}}}, "192.0.2.1", 81, true},
		{trusted{from, []ranges.Ports{{Low: 80, High: 81}, {Low: 90, High: 90}}}, "192.0.2.1", 82, false},
	} {
		if got := tt.begins(netip.MustParseAddr(tt.peer), tt.port); got != tt.want {
			t.Errorf("%+v: got %v", tt, got)
		}
	}
}

// TestIdleSize: what a connection costs while idle does not depend on what there is for
// few of them.
func TestIdleSize(t *testing.T) {
	const most = 192 // a size class of the allocator: the next is 208
	if size := unsafe.Sizeof(conn{}); size > most {
		t.Errorf("a conn has %d bytes, more than %d", size, most)
	}
}

// heads is a loop's connections whose headers are to come.
type heads struct {
	*conns
	t   *testing.T
	out *lab.Output
}

func newHeads(t *testing.T) *heads {
	out := &lab.Output{}
	s := &shared{
		dialer: dial.New("nat", 5000, dial.NewAddrs()), accesslog: accesslog.New(slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug}))), places: newPlaces(1000),
	}
	h := &heads{newConns(s, epoll(t), 1), t, out}
	h.now = time.Now()
	t.Cleanup(h.buffers.Close)
	return h
}

// sender is who hands the connections over.
var sender = netip.MustParseAddrPort("192.0.2.1:7")

// open is the sender's end of one more connection, and the connection.
func (h *heads) open() (fd int, c *conn) {
	h.t.Helper()
	fds := lab.TCPPair(h.t)
	return fds[0], h.accepted(fds[1], sender)
}

// accepted is the connection of a socket.
func (h *heads) accepted(fd int, from netip.AddrPort) (c *conn) {
	h.t.Helper()
	own, err := unix.Dup(fd) // the loop closes it
	if err != nil {
		h.t.Fatal(err)
	}
	c = h.newConn()
	c.client, c.dialing = from, true
	c.relay.Sides[relay.Client].FD, c.relay.Sides[relay.Application].FD = int32(own), -1
	h.place(c, relay.Client)
	h.places.take()
	h.places.enter(c.client.Addr())
	h.awaitHeader(c)
	return c
}

// TestHeaderVia: while it is open and at its end the log says who handed a connection
// over.
func TestHeaderVia(t *testing.T) {
	h := newHeads(t)
	h.sweep.logOpen, h.sweep.at = time.Second, time.Minute
	for _, from := range []netip.AddrPort{sender, fromFront} {
		c := h.accepted(lab.TCPPair(t)[1], from)
		c.began, c.client = time.Second, netip.MustParseAddrPort("203.0.113.7:9")
		h.age(c)
		h.abort(c, accesslog.Outcome{How: accesslog.Drained})
	}
	h.accesslog.Close()
	lines := strings.Split(strings.TrimSpace(h.out.String()), "\n")
	if len(lines) != 4 {
		t.Fatalf("the log says %s", lines)
	}
	for i, want := range []string{
		`msg="connection is open" .* via=192.0.2.1:7$`, `msg=connection .* end=drained via=192.0.2.1:7$`,
		`msg="connection is open" .* via=unix$`, `msg=connection .* end=drained via=unix$`,
	} {
		if !regexp.MustCompile(want).MatchString(lines[i]) {
			t.Errorf("the log says %s, want %s", lines[i], want)
		}
	}
}

// TestHeaderTime: the loop wakes up for a header that does not come, ends its connection
// and no other's, and nothing is left of either.
func TestHeaderTime(t *testing.T) {
	h := newHeads(t)
	if due := h.expireHeaders(); !due.IsZero() {
		t.Errorf("due at %v without a connection", due)
	}
	slow, _ := h.open()
	if n, err := sys.Write(slow, []byte("PROXY TCP4 192.0.2.1 ")); n < 1 || err != nil {
		t.Fatal(n, err)
	}
	begun := h.now
	h.now = h.now.Add(headerTime / 2)
	_, later := h.open()
	if due := h.expireHeaders(); !due.Equal(begun.Add(headerTime)) || h.count != 2 {
		t.Errorf("due at %v with %d connections", due.Sub(begun), h.count)
	}
	h.now = begun.Add(headerTime)
	if due := h.expireHeaders(); !due.Equal(h.now.Add(headerTime/2)) || h.count != 1 || later.id == 0 {
		t.Errorf("due at %v with %d connections", due.Sub(begun), h.count)
	}
	h.now = h.now.Add(headerTime)
	if due := h.expireHeaders(); !due.IsZero() || h.count != 0 || len(h.headers.peers) != 0 || h.places.taken.Load() != 0 {
		t.Errorf("due at %v with %d connections, %d peers, %d places", due, h.count, len(h.headers.peers), h.places.taken.Load())
	}
	h.accesslog.Close()
	if said := h.out.String(); strings.Count(said, errHeaderTime.Error()) != 2 {
		t.Errorf("the log says %s", said)
	}
}

// TestHeaderProbe: a peer that only connects, as a probe does, is no fault, be its end a
// FIN or a RST, and the RST there before the first look; one that ends within its header
// is.
func TestHeaderProbe(t *testing.T) {
	const silent = `level=DEBUG .* end="client silent"`
	for _, tt := range []struct {
		sent         string
		reset, early bool
		want         string
	}{
		{"", false, false, silent},
		{"PRO", false, false, "end=rejected"},
		{"", true, false, silent + ` .*err="read: connection reset by peer"`},
		{"PRO", true, false, `end="client reset" .*err="read: connection reset by peer"`},
		{"", true, true, silent},
		{"PRO", true, true, `end="client reset"`},
	} {
		h := newHeads(t)
		fds := lab.TCPPair(t)
		var c *conn
		if !tt.early {
			c = h.accepted(fds[1], sender)
		}
		if _, err := sys.Write(fds[0], []byte(tt.sent)); err != nil {
			t.Fatal(err)
		}
		end := sys.CloseWrite
		if tt.reset {
			end = disconnect
		}
		if err := end(fds[0]); err != nil {
			t.Fatal(err)
		}
		if tt.early {
			lab.Eventually(t, "the reset is there", func() error {
				p := []unix.PollFd{{Fd: int32(fds[1])}}
				if n, err := unix.Poll(p, 0); err != nil || n == 0 {
					return errors.Join(err, errors.New("no event"))
				}
				return nil
			})
			c = h.accepted(fds[1], sender)
		}
		lab.Eventually(t, "the connection ends", func() error {
			if c.id == 0 {
				return nil
			}
			events := make([]sys.Event, 1)
			if n, err := h.poll.Wait(events, 0); err != nil || n == 0 {
				return errors.Join(err, errors.New("no event"))
			}
			h.event(&events[0])
			return errors.New("it is open")
		})
		h.accesslog.Close()
		if line := h.out.String(); !regexp.MustCompile(tt.want).MatchString(line) {
			t.Errorf("%+v: the log says %s", tt, line)
		}
	}
}

// disconnect ends a TCP connection with a RST, whoever else has the socket.
func disconnect(fd int) error {
	_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unix.RawSockaddrInet4{Family: unix.AF_UNSPEC})), unix.SizeofSockaddrInet4)
	if errno != 0 {
		return errno
	}
	return nil
}

// TestHeadersBounded: connections whose headers came do not stay in the list of those
// that wait.
func TestHeadersBounded(t *testing.T) {
	h := newHeads(t)
	defer h.accesslog.Close()
	_, first := h.open()
	c := &conn{}
	for range 5 * manyRefs {
		h.headers.add(c, h.now) // ended: not live
		c.id++
		if n := len(h.headers.awaited); n > 2*manyRefs {
			t.Fatalf("%d in the list", n)
		}
	}
	if h.headers.awaited[0].conn != first {
		t.Error("the one that waits is not in the list")
	}
}

// TestDiscard: exactly the header is taken, however small the pieces in which it came.
func TestDiscard(t *testing.T) {
	fds := lab.TCPPair(t)
	for _, piece := range []string{"PRO", "XY UNKNOWN\r\nda", "ta"} {
		if _, err := sys.Write(fds[0], []byte(piece)); err != nil {
			t.Fatal(err)
		}
	}
	peeked := make([]byte, proxyproto.MaxSize)
	lab.Eventually(t, "all of it", func() error {
		n, err := sys.Peek(fds[1], peeked)
		if err == nil && n < 19 {
			err = sys.ErrAgain
		}
		return err
	})
	if err := discard(fds[1], peeked[:15]); err != nil {
		t.Fatal(err)
	}
	if n, err := sys.Read(fds[1], peeked); err != nil || string(peeked[:n]) != "data" {
		t.Errorf("got %q, %v", peeked[:n], err)
	}
}
