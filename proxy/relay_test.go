package main

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/proxy/accesslog"
	"github.com/tproxy-cni/tproxy-cni/proxy/relay"
	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
	"github.com/tproxy-cni/tproxy-cni/proxy/sys"
)

// stories are what one side of a relay does and the other side sees. Each has the two
// ends of one connection, through the sidecar, in each mode and family.
var stories = []struct {
	name string
	tell func(t *testing.T, client, application *net.TCPConn)
	end  string // what the sidecar logs
}{
	{"the client ends first", func(t *testing.T, client, application *net.TCPConn) {
		move(t, client, application, 3<<20)
		move(t, application, client, 5<<20)
	}, accesslog.Closed},
	{"the application ends first", func(t *testing.T, client, application *net.TCPConn) {
		move(t, application, client, 5<<20)
		move(t, client, application, 3<<20)
	}, accesslog.Closed},
	{"both send at once", func(t *testing.T, client, application *net.TCPConn) {
		done := make(chan bool)
		go func() {
			defer close(done)
			move(t, application, client, 8<<20)
		}()
		move(t, client, application, 8<<20)
		<-done
	}, accesslog.Closed},
	{"nothing is sent", func(t *testing.T, client, application *net.TCPConn) {
		move(t, client, application, 0)
		move(t, application, client, 0)
	}, accesslog.Silent},
	{"the server greets", func(t *testing.T, client, application *net.TCPConn) {
		say(t, application, client, "220 ready\r\n")
		say(t, client, application, "QUIT\r\n")
		move(t, application, client, 0)
		move(t, client, application, 0)
	}, accesslog.Closed},
	{"the client resets", func(t *testing.T, client, application *net.TCPConn) {
		say(t, client, application, "hello")
		sock.Reset(client)
		wantReset(t, application)
	}, "client reset"},
	{"the application resets", func(t *testing.T, client, application *net.TCPConn) {
		say(t, client, application, "hello")
		sock.Reset(application)
		wantReset(t, client)
	}, "application reset"},
	{"the client resets after its end", func(t *testing.T, client, application *net.TCPConn) {
		move(t, client, application, 1)
		sock.Reset(client)
		wantGone(t, application)
	}, "client reset"},
	{"the application resets after its end", func(t *testing.T, client, application *net.TCPConn) {
		move(t, application, client, 1)
		sock.Reset(application)
		wantGone(t, client)
	}, "application reset"},
	{"the client resets while it does not read", func(t *testing.T, client, application *net.TCPConn) {
		stuff(t, application)
		sock.Reset(client)
		wantReset(t, application)
	}, "client reset"},
	{"the application resets while it does not read", func(t *testing.T, client, application *net.TCPConn) {
		stuff(t, client)
		sock.Reset(application)
		wantReset(t, client)
	}, "application reset"},
	// The relay is blocked on the way to the one that does not read.
	{"the client resets while the application does not read", func(t *testing.T, client, application *net.TCPConn) {
		stuff(t, client)
		sock.Reset(client)
		wantResetAfterData(t, application)
	}, "client reset"},
	{"the application resets while the client does not read", func(t *testing.T, client, application *net.TCPConn) {
		stuff(t, application)
		sock.Reset(application)
		wantResetAfterData(t, client)
	}, "application reset"},
	{"the application resets after the client's end while the client does not read", func(t *testing.T, client, application *net.TCPConn) {
		move(t, client, application, 1)
		stuff(t, application)
		sock.Reset(application)
		wantResetAfterData(t, client)
	}, "application reset"},
}

// atDebug logs each story's end, also where the client says nothing.
var atDebug = []string{"--log-level", "debug"}

func TestRelay(t *testing.T) {
	inModesStarted(t, atDebug, func(t *testing.T, p *pod) {
		// Less to write until nothing goes any more.
		for _, ns := range []*lab.NS{p.Client, p.Pod} {
			ns.Sysctl("net.ipv4.tcp_rmem", "4096 131072 524288")
			ns.Sysctl("net.ipv4.tcp_wmem", "4096 65536 524288")
		}
		inFamilies(t, p.tellStories)
	})
}

func (p *pod) tellStories(t *testing.T, f ipFamily) {
	for _, s := range stories {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			client, application := p.pair(t, f)
			p.wantSource(t, client, application)
			me := sock.AddrPort(client.LocalAddr())
			s.tell(t, client, application)
			p.wantEnd(t, me, s.end)
		})
	}
}

// TestRelayInCrowd: the same while clients that do not read hold all of a loop's
// pipes and buffers.
func TestRelayInCrowd(t *testing.T) {
	const crowd = relay.MaxBuffers
	for _, mode := range []string{contract.ModeNAT, contract.ModeTProxy} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			p := prepared(t, mode)
			for _, ns := range []*lab.NS{p.Client, p.Pod} {
				ns.Sysctl("net.ipv4.tcp_rmem", "4096 65536 131072")
				ns.Sysctl("net.ipv4.tcp_wmem", "4096 16384 65536")
			}
			p.start(append(atDebug, "--loops", "1")...)
			p.waitReady()
			a := p.listen(t, 0)
			much := make([]byte, 4<<20)
			for range crowd {
				p.dial(t, ip4, a.port)
				application := a.accept(t)
				go func() { _, _ = application.Write(much) }()
			}
			lab.Eventually(t, "none of them can send", func() error {
				blocked := 0
				for _, s := range p.sockets(t) {
					if s.LocalPort == a.port && s.UID != contract.ProxyUID && s.SendQueue > 0 {
						blocked++
					}
				}
				if blocked < crowd {
					return fmt.Errorf("%d of %d", blocked, crowd)
				}
				return nil
			})
			inFamilies(t, p.tellStories)
		})
	}
}

// TestBackPressure: a client that does not read stops the application, and gets
// every byte when it reads again.
func TestBackPressure(t *testing.T) {
	inModes(t, func(t *testing.T, p *pod) {
		inFamilies(t, func(t *testing.T, f ipFamily) {
			client, application := p.pair(t, f)
			// Each of the four sockets on the way buffers a few MiB, as the
			// kernel sizes them, and the sidecar one carrier.
			sent := stuff(t, application)
			if sent.n > 48<<20 {
				t.Errorf("%d bytes are under way to a client that does not read", sent.n)
			}
			done := make(chan error)
			go func() { done <- application.CloseWrite() }()
			got := sha256.New()
			n, err := io.Copy(got, client)
			if err != nil || n != int64(sent.n) || !bytes.Equal(got.Sum(nil), sent.sum) {
				t.Errorf("got %d bytes of %d (%v), the same: %v", n, sent.n, err, bytes.Equal(got.Sum(nil), sent.sum))
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	})
}

// TestDataBeforeDial: what the client sends, its FIN included, before the application
// has a place for the connection.
func TestDataBeforeDial(t *testing.T) {
	inModes(t, func(t *testing.T, p *pod) {
		inFamilies(t, func(t *testing.T, f ipFamily) {
			a := p.listen(t, 0)
			raw, err := a.Listener.(*net.TCPListener).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			// A queue of one, taken by a connection of the pod itself.
			if err := raw.Control(func(fd uintptr) { _ = unix.Listen(int(fd), 0) }); err != nil {
				t.Fatal(err)
			}
			if _, err := p.Pod.Dial("tcp", "", addr(f.lo, a.port)); err != nil {
				t.Fatal(err)
			}
			client := p.dial(t, f, a.port)
			data := random(t, 100_000)
			if _, err := client.Write(data); err != nil {
				t.Fatal(err)
			}
			if err := client.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			lab.Eventually(t, "the sidecar has the connection and its data", func() error {
				sockets, err := p.Pod.Sockets()
				for _, s := range sockets {
					if s.RemotePort == int(sock.AddrPort(client.LocalAddr()).Port()) && s.RecvQueue >= len(data) {
						return nil
					}
				}
				return errors.Join(err, errors.New("no such socket"))
			})
			a.accept(t).Close()
			application := a.accept(t)
			got, err := io.ReadAll(application)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("got %d bytes of %d (%v)", len(got), len(data), err)
			}
		})
	})
}

// move sends n random bytes and the end, and compares what arrives.
func move(t *testing.T, from, to *net.TCPConn, n int) {
	t.Helper()
	data := random(t, n)
	done := make(chan error, 1)
	go func() {
		_, err := from.Write(data)
		done <- errors.Join(err, from.CloseWrite())
	}()
	got := sha256.New()
	m, err := io.Copy(got, to)
	if want := sha256.Sum256(data); err != nil || !bytes.Equal(got.Sum(nil), want[:]) {
		t.Errorf("got %d bytes of %d (%v) or others", m, n, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func say(t *testing.T, from, to *net.TCPConn, text string) {
	t.Helper()
	if _, err := io.WriteString(from, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(to, got); err != nil || string(got) != text {
		t.Fatalf("got %q (%v), want %q", got, err, text)
	}
}

type sent struct {
	n   int
	sum []byte
}

// stuff writes until no byte has gone for a while: the other end does not read.
func stuff(t *testing.T, conn *net.TCPConn) sent {
	t.Helper()
	block := random(t, 1<<20)
	sum := sha256.New()
	total := 0
	for {
		n, err := writeSome(conn, block)
		sum.Write(block[:n])
		total += n
		if errors.Is(err, errStuck) {
			return sent{total, sum.Sum(nil)}
		}
		if err != nil {
			t.Fatalf("after %d bytes: %v", total, err)
		}
	}
}

func random(t *testing.T, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

func wantReset(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	if n, err := io.Copy(io.Discard, conn); n > 0 || !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("read %d bytes and %v, want a reset", n, err)
	}
}

// wantGone is wantReset for a socket that has read the other's FIN: it reads nothing
// but end of file.
func wantGone(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	lab.Eventually(t, "reset of "+conn.LocalAddr().String(), func() (err error) {
		_ = raw.Control(func(fd uintptr) {
			if err = sys.SocketError(int(fd)); errors.Is(err, unix.EPIPE) {
				err = nil
			} else {
				err = fmt.Errorf("its error is %v", err)
			}
		})
		return err
	})
}

// wantResetAfterData is wantReset for one that has not read all: it is reset
// before it does.
func wantResetAfterData(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	lab.Eventually(t, "reset of "+conn.LocalAddr().String(), func() (err error) {
		_ = raw.Control(func(fd uintptr) {
			if !tcpClosed(int(fd)) {
				err = errors.New("it is open")
			}
		})
		return err
	})
	if _, err := io.Copy(io.Discard, conn); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("%v, want a reset", err)
	}
}

// tcpClosed reports whether the kernel has given up the connection.
func tcpClosed(fd int) bool {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	return err == nil && info.State == unix.BPF_TCP_CLOSE
}

var errStuck = errors.New("no room for a while")

// writeSome writes what there is room for, and returns errStuck if that is nothing
// for a while.
func writeSome(conn *net.TCPConn, b []byte) (int, error) {
	_ = conn.SetWriteDeadline(time.Now().Add(250 * time.Millisecond))
	defer conn.SetWriteDeadline(time.Now().Add(lab.Patience))
	n, err := conn.Write(b)
	if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, errStuck
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = nil
	}
	return n, err
}
