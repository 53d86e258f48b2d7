package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/lab"
)

// TestLoops: with several loops each has its part of the connections, and all
// that a connection can do works in each. The drain waits for all of them.
func TestLoops(t *testing.T) {
	const loops = 3
	inModesStarted(t, []string{"--loops", fmt.Sprint(loops), "--drain", "10m"}, func(t *testing.T, p *pod) {
		p.sidecar.WaitLog(fmt.Sprintf(" loops=%d ", loops))
		a := p.listen(t, 0)
		var clients, applications []*net.TCPConn
		for _, f := range []ipFamily{ip4, ip6} {
			for range loops {
				clients = append(clients, p.dial(t, f, a.port))
				applications = append(applications, a.accept(t))
			}
		}
		var all sync.WaitGroup
		for i, c := range clients {
			all.Go(func() {
				say(t, c, applications[i], "hello")
				move(t, applications[i], c, 2<<20)
			})
		}
		all.Wait()
		p.wantEpolls(t, loops)
		p.sidecar.Signal(syscall.SIGTERM)
		lab.Eventually(t, "listener closed", func() error {
			if ok, err := p.Pod.Listening(contract.ProxyPort); ok || err != nil {
				return fmt.Errorf("listening: %v, %v", ok, err)
			}
			return nil
		})
		for i, c := range clients {
			p.wantRefused(t, ip4, a.port)
			move(t, c, applications[i], 1<<20)
			p.wantEnd(t, plain(c.LocalAddr()), endClosed)
		}
		if err := p.sidecar.Wait(); err != nil {
			t.Errorf("ended with %v", err)
		}
	})
}

// wantEpolls wants the sidecar's sockets of connections spread over its epoll
// instances: as many in each.
func (p *pod) wantEpolls(t *testing.T, loops int) {
	t.Helper()
	watched := map[int]int{} // epoll instances by how many sockets they watch
	dir := fmt.Sprintf("/proc/%d/fdinfo/", p.sidecar.Pid())
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		info, _ := os.ReadFile(dir + f.Name())
		// tfd: 8 events: 80002001 data: ...; ours have EPOLLRDHUP (2000) and EPOLLET.
		n := 0
		for line := range strings.Lines(string(info)) {
			if strings.HasPrefix(line, "tfd:") && strings.Contains(line, "events: 8000201") {
				n++
			}
		}
		if n > 1 { // the runtime's own may watch one
			watched[n]++
		}
	}
	if watched[4] != loops {
		t.Errorf("epoll instances by sockets: %v, want %d of 4", watched, loops)
	}
}

// TestManyAtOnce: connections that come and go while others stay, so that
// descriptors are used again at once: no event reaches the wrong one.
func TestManyAtOnce(t *testing.T) {
	inModes(t, func(t *testing.T, p *pod) {
		a := p.listen(t, 0).echo()
		var all sync.WaitGroup
		for i := range 16 {
			f := []ipFamily{ip4, ip6}[i%2]
			all.Go(func() {
				for j := range 40 {
					conn, err := p.Client.Dial("tcp", f.client, addr(f.pod, a.port))
					if err != nil {
						t.Error(err)
						return
					}
					text := fmt.Sprintf("connection %d of %d", j, i)
					switch c := conn.(*net.TCPConn); j % 4 {
					case 0: // never says a word
						c.Close()
						continue
					case 1:
						reset(c)
						continue
					default:
						got := make([]byte, len(text))
						_, werr := c.Write([]byte(text))
						_, rerr := io.ReadFull(c, got)
						if err := errors.Join(werr, rerr); err != nil || string(got) != text {
							t.Errorf("%s got %q: %v", text, got, err)
						}
						c.Close()
					}
				}
			})
		}
		all.Wait()
		lab.Eventually(t, "the sidecar's sockets are closed", func() error {
			sockets, err := p.Pod.Sockets()
			for _, s := range sockets {
				if s.UID == contract.ProxyUID && s.RemotePort != 0 {
					err = errors.Join(err, fmt.Errorf("open: %+v", s))
				}
			}
			return err
		})
	})
}

// TestStaleEvent: an event for a descriptor whose connection has ended in the
// same round is no event of the connection that has the descriptor now.
func TestStaleEvent(t *testing.T) {
	fds := socketPair(t)
	l := &loop{p: &proxy{}}
	old := l.newConn()
	old.sides[client].fd, old.sides[application].fd = int32(fds[0]), -1
	l.place(old, client)
	stale := unix.EpollEvent{Events: unix.EPOLLERR | unix.EPOLLHUP, Fd: int32(fds[0]), Pad: int32(old.id)}

	l.slots[fds[0]] = slot{} // it ends, and its descriptor and memory are another's
	l.freeConn(old)
	now := l.newConn()
	now.sides[client].fd, now.sides[application].fd = int32(fds[0]), int32(fds[1])
	l.place(now, client)
	l.event(&stale)
	if now.sides[client].ended || now.sides[client].failed {
		t.Error("a connection got the event of the one before it")
	}
	fresh := stale
	fresh.Events, fresh.Pad = unix.EPOLLIN, int32(now.id)
	l.event(&fresh)
	if now.id == 0 {
		t.Error("an event of its own ended it")
	}
}

// TestSteadyState: what a connection does between its begin and its end takes no
// memory from the heap.
func TestSteadyState(t *testing.T) {
	r := newRig(t, 1)
	message := make([]byte, 1000)
	exchange := func() {
		for _, way := range [2][2]int{{r.client, r.application}, {r.application, r.client}} {
			if _, err := write(way[0], message); err != nil {
				t.Fatal(err)
			}
			r.round(t, -1)
			if n, err := read(way[1], message); n != len(message) || err != nil {
				t.Fatal(n, err)
			}
		}
	}
	exchange()
	if n := testing.AllocsPerRun(100, exchange); n != 0 {
		t.Errorf("an exchange allocates %v times", n)
	}
}

// TestTurns: a stream that never ends lets the others have their turn, and its
// own comes again without an event, until there is nothing left to do.
func TestTurns(t *testing.T) {
	const bytes = 2*turn + 1000
	in, out := socketPair(t), socketPair(t)
	l := &loop{p: &proxy{}, ep: epoll(t), carriers: carriers{pipes: pipes{most: 1}}}
	c := l.newConn()
	for i, fd := range []int{in[1], out[1]} {
		c.sides[i] = side{fd: int32(fd), writable: true}
		l.place(c, i)
		l.watch(c, i, 0)
	}
	for _, fd := range []int{in[0], out[1]} {
		if err := setInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4*bytes); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := write(in[0], make([]byte, bytes)); n != bytes || err != nil {
		t.Fatal(n, err)
	}
	l.event(&unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(in[1]), Pad: int32(c.id)})
	turns := 1
	for ; len(l.yielded) > 0; turns++ {
		if moved := c.halves[client].total; moved > int64(turns)*(turn+pipeSize) || turns > 10 {
			t.Fatalf("%d bytes in %d turns", moved, turns)
		}
		l.resume()
	}
	if moved := c.halves[client].total; moved != bytes || turns < 2 {
		t.Errorf("%d bytes of %d in %d turns", moved, bytes, turns)
	}
}

func epoll(t testing.TB) int {
	t.Helper()
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(ep) })
	return ep
}

// TestSockaddr: an address is the same after its way to the kernel and back.
func TestSockaddr(t *testing.T) {
	for _, s := range []string{"192.0.2.1:80", "[2001:db8::1]:65535", "[fe80::1%7]:1", "0.0.0.0:0", "[::]:5000"} {
		want := netip.MustParseAddrPort(s)
		a := newSockaddr(want)
		if got := a.addrPort(); got != want {
			t.Errorf("%s became %s", want, got)
		}
	}
	a := newSockaddr(netip.MustParseAddrPort("[::ffff:192.0.2.1]:80"))
	if got := a.addrPort(); got != netip.MustParseAddrPort("192.0.2.1:80") {
		t.Errorf("a v4-mapped address became %s", got)
	}
	a = sockaddr{}
	if got := a.addrPort(); got.IsValid() {
		t.Errorf("no family became %s", got)
	}
}
