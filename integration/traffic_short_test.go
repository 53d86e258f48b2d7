package integration

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

const (
	shortWorkers = 8
	shortPort    = 32_768 // the first of the client's ports, as Linux has it
)

var (
	shortConnections = lab.Count(60_000) // over IPv4, in each mode; over IPv6 a sixth of it
	shortPorts       = lab.Count(28_000) // fewer with fewer connections, so that each comes again
)

// TestShortConnections: one client address, more connections than it has ports
// and than the sidecar has in tproxy mode, faster than TIME_WAIT lets ports go.
// In half of them the client closes first, in half the application, so that either side
// of either leg is in TIME_WAIT when its ports are used again.
func TestShortConnections(t *testing.T) {
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		p.nginx(t)
		p.inFamilies(t, func(t *testing.T, f family) {
			count := shortConnections
			if f == v6 {
				count /= 6
			}
			count -= count % shortWorkers
			got := p.short(t, f, count)
			if got.served != count {
				t.Errorf("%d of %d served", got.served, count)
			}
			if got.address != got.served {
				t.Errorf("the application saw the client's address in %d of %d", got.address, got.served)
			}
			if p.mode == contract.ModeNAT && got.port*1000 < got.served*999 {
				t.Errorf("the application saw the client's port in %d of %d", got.port, got.served)
			}
			t.Logf("%d served, address exact in %d, port in %d", got.served, got.address, got.port)
		})
	})
}

// tally counts connections.
type tally struct{ served, address, port int }

// short makes count connections from the client's address to nginx.
func (p *pod) short(t *testing.T, f family, count int) tally {
	t.Helper()
	var mu sync.Mutex
	var sum tally
	var workers sync.WaitGroup
	for w := range shortWorkers {
		workers.Go(func() {
			var mine tally
			// One thread in the namespace, which never leaves it.
			err := p.Client.Do(func() error {
				for i := range count / shortWorkers {
					port := shortPort + w*shortPorts/shortWorkers + i%(shortPorts/shortWorkers)
					from := netip.AddrPortFrom(netip.MustParseAddr(f.client), uint16(port))
					saw, err := askRaw(from, addrPort(t, addr(f.pod, webPort)), w%2 == 0)
					if err != nil {
						return fmt.Errorf("connection %d of worker %d, from %s: %w", i, w, from, err)
					}
					mine.count(saw, from)
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			sum.served += mine.served
			sum.address += mine.address
			sum.port += mine.port
		})
	}
	workers.Wait()
	return sum
}

func (y *tally) count(saw, client netip.AddrPort) {
	y.served++
	if saw.Addr() == client.Addr() {
		y.address++
		if saw.Port() == client.Port() {
			y.port++
		}
	}
}

// askRaw is ask on a socket without a poller, which is cheaper here. The side that closes
// first is in TIME_WAIT afterwards.
func askRaw(from, to netip.AddrPort, clientFirst bool) (saw netip.AddrPort, err error) {
	fd, err := rawDial(from, to)
	if err != nil {
		return saw, err
	}
	defer unix.Close(fd)
	if err := rawWrite(fd, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return saw, err
	}
	if clientFirst {
		if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
			return saw, os.NewSyscallError("shutdown", err)
		}
	}
	var answer []byte
	buf := make([]byte, 1024)
	for {
		n, err := rawRead(fd, buf)
		if err != nil {
			return saw, err
		}
		if n == 0 {
			break
		}
		answer = append(answer, buf[:n]...)
	}
	_, body, _ := strings.Cut(string(answer), "\r\n\r\n")
	text, err := peer(body)
	if err != nil {
		return saw, err
	}
	return netip.ParseAddrPort(text)
}

// rawDial connects a blocking socket, with timeouts.
func rawDial(from, to netip.AddrPort) (fd int, err error) {
	af := unix.AF_INET
	if from.Addr().Is6() {
		af = unix.AF_INET6
	}
	if fd, err = unix.Socket(af, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	limit := unix.NsecToTimeval(int64(lab.Patience))
	err = errors.Join(
		os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)),
		os.NewSyscallError("setsockopt", unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)),
		os.NewSyscallError("setsockopt", unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit)),
		os.NewSyscallError("bind", unix.Bind(fd, sockaddr(from))),
	)
	if err == nil {
		err = uninterrupted("connect", func() error { return unix.Connect(fd, sockaddr(to)) })
	}
	if err != nil {
		unix.Close(fd)
	}
	return fd, err
}

func rawWrite(fd int, text string) error {
	return uninterrupted("write", func() error {
		_, err := unix.Write(fd, []byte(text))
		return err
	})
}

func rawRead(fd int, buf []byte) (n int, err error) {
	err = uninterrupted("read", func() error {
		n, err = unix.Read(fd, buf)
		return err
	})
	return n, err
}

// uninterrupted repeats a call that a signal of the Go runtime has interrupted:
// with a time limit on the socket the kernel does not do so itself.
func uninterrupted(name string, call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return os.NewSyscallError(name, err)
		}
	}
}

func sockaddr(ap netip.AddrPort) unix.Sockaddr {
	if ap.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: ap.Addr().As4(), Port: int(ap.Port())}
	}
	return &unix.SockaddrInet6{Addr: ap.Addr().As16(), Port: int(ap.Port())}
}
