package main

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// rig is a loop with one connection whose two sides are at hand.
type rig struct {
	*loop
	client, application int // the far ends
	events              []unix.EpollEvent
}

func newRig(t testing.TB, pipesEach int) *rig {
	t.Helper()
	in, out := tcpPair(t), tcpPair(t)
	r := &rig{
		loop:   &loop{p: &proxy{}, ep: epoll(t), carriers: carriers{pipes: pipes{most: pipesEach}}, now: time.Now()},
		client: in[0], application: out[0], events: make([]unix.EpollEvent, 8),
	}
	t.Cleanup(func() { r.carriers.pipes.sweep(time.Now().Add(2 * pipeIdle)) })
	c := r.newConn()
	for i, fd := range []int{in[1], out[1]} {
		c.sides[i] = side{fd: int32(fd), writable: true}
		r.place(c, i)
		r.watch(c, i, 0)
	}
	return r
}

// round waits for events and serves them.
func (r *rig) round(t testing.TB, timeout int) {
	n, err := unix.EpollWait(r.ep, r.events, timeout)
	if err != nil && err != unix.EINTR {
		t.Fatal(err)
	}
	for i := range max(n, 0) {
		r.event(&r.events[i])
	}
	r.resume()
}

// tcpPair is a connection over loopback, both ends non-blocking.
func tcpPair(t testing.TB) (fds [2]int) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dst := plain(ln.Addr())
	if fds[0], err = dialSocket(netip.AddrPort{}, dst); err != nil {
		t.Fatal(err)
	}
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { fds[1], _ = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeFD(fds[0]); closeFD(fds[1]) })
	return fds
}

// BenchmarkExchange is a request and its answer: two wake-ups, two reads and two
// writes of ours, and as many of the two ends.
func BenchmarkExchange(b *testing.B) {
	for _, size := range []int{64, 4 << 10} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			r := newRig(b, 1)
			message := make([]byte, size)
			b.ReportAllocs()
			for b.Loop() {
				for _, way := range [2][2]int{{r.client, r.application}, {r.application, r.client}} {
					if n, err := write(way[0], message); n != size || err != nil {
						b.Fatal(n, err)
					}
					for got := 0; got < size; {
						r.round(b, -1)
						n, err := read(way[1], message)
						if err != nil && err != errAgain {
							b.Fatal(err)
						}
						got += max(n, 0)
					}
				}
			}
		})
	}
}

// BenchmarkBulk is one direction's stream, spliced and copied.
func BenchmarkBulk(b *testing.B) {
	for _, kind := range []struct {
		name  string
		pipes int
	}{{"splice", 1}, {"copy", 0}} {
		b.Run(kind.name, func(b *testing.B) {
			const block = 1 << 20
			r := newRig(b, kind.pipes)
			data, sink := make([]byte, block), make([]byte, block)
			b.SetBytes(block)
			b.ReportAllocs()
			for b.Loop() {
				for sent, got := 0, 0; got < block; {
					if sent < block {
						n, err := write(r.client, data[sent:])
						if err != nil && err != errAgain {
							b.Fatal(err)
						}
						sent += max(n, 0)
					}
					r.round(b, 0)
					n, err := read(r.application, sink)
					if err != nil && err != errAgain {
						b.Fatal(err)
					}
					got += max(n, 0)
				}
			}
		})
	}
}
