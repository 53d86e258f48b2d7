package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/proxy/accesslog"
	"github.com/tproxy-cni/tproxy-cni/proxy/relay"
	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
	"github.com/tproxy-cni/tproxy-cni/proxy/sys"
)

// TestLoops: with several loops each gets its part of the connections and relays
// them. The drain waits for all of them.
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
			p.wantEnd(t, sock.AddrPort(c.LocalAddr()), accesslog.Closed)
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

// TestManyAtOnce: connections come and go while others stay, and their descriptors are
// reused at once: no event reaches the wrong one.
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
						sock.Reset(c)
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
// same round does not reach the connection that has the descriptor now.
func TestStaleEvent(t *testing.T) {
	fds := lab.SocketPair(t)
	l := newConns(&shared{}, sys.Epoll{}, 1)
	old := l.newConn()
	old.relay.Sides[relay.Client].FD, old.relay.Sides[relay.Application].FD = int32(fds[0]), -1
	l.place(old, relay.Client)
	stale := sys.Event{Events: unix.EPOLLERR | unix.EPOLLHUP, Fd: int32(fds[0]), Pad: int32(old.id)}

	l.slots[fds[0]] = slot{} // it ends, and its descriptor and memory are another's
	l.freeConn(old)
	now := l.newConn()
	now.relay.Sides[relay.Client].FD, now.relay.Sides[relay.Application].FD = int32(fds[0]), int32(fds[1])
	now.relay.Sides[relay.Application].Writable = true
	l.place(now, relay.Client)
	l.event(&stale)
	if s := now.relay.Sides[relay.Client]; s.Ended || s.Failed {
		t.Error("a connection got the event of the one before it")
	}
	fresh := stale
	fresh.Events, fresh.Pad = unix.EPOLLIN, int32(now.id)
	l.event(&fresh)
	if now.id == 0 {
		t.Error("an event of its own ended it")
	}
}

// TestSteadyState: a running connection allocates nothing.
func TestSteadyState(t *testing.T) {
	r := newRig(t, 1)
	message := make([]byte, 1000)
	exchange := func() {
		for _, way := range [2][2]int{{r.client, r.application}, {r.application, r.client}} {
			if _, err := sys.Write(way[0], message); err != nil {
				t.Fatal(err)
			}
			r.round(t, -1)
			if n, err := sys.Read(way[1], message); n != len(message) || err != nil {
				t.Fatal(n, err)
			}
		}
	}
	exchange()
	if n := testing.AllocsPerRun(100, exchange); n != 0 {
		t.Errorf("an exchange allocates %v times", n)
	}
}

// TestTurns: a stream that never ends yields to the others, and gets its next turn
// without an event, until nothing is left to do.
func TestTurns(t *testing.T) {
	const bytes = 2*relay.Turn + 1000
	in, out := lab.SocketPair(t), lab.SocketPair(t)
	l := newConns(&shared{}, epoll(t), 1)
	t.Cleanup(l.buffers.Close)
	c := l.newConn()
	for i, fd := range []int{in[1], out[1]} {
		c.relay.Sides[i] = relay.Side{FD: int32(fd), Writable: true}
		l.place(c, i)
		l.watch(c, i, 0)
	}
	for _, fd := range []int{in[0], out[1]} {
		if err := sys.SetInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4*bytes); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := sys.Write(in[0], make([]byte, bytes)); n != bytes || err != nil {
		t.Fatal(n, err)
	}
	l.event(&sys.Event{Events: unix.EPOLLIN, Fd: int32(in[1]), Pad: int32(c.id)})
	turns := 1
	for ; len(l.yielded) > 0; turns++ {
		if moved := c.relay.Moved(relay.Client); moved > int64(turns)*(relay.Turn+1<<20) || turns > 10 {
			t.Fatalf("%d bytes in %d turns", moved, turns)
		}
		l.resume()
	}
	if moved := c.relay.Moved(relay.Client); moved != bytes || turns < 2 {
		t.Errorf("%d bytes of %d in %d turns", moved, bytes, turns)
	}
}

func epoll(t testing.TB) sys.Epoll {
	t.Helper()
	ep, err := sys.NewEpoll()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ep.Close)
	return ep
}
