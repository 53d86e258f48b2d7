package integration

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/adminhttp"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// flood is what remote clients do to the admin port all the time: they replace each
// connection that they lose at once.
type flood struct {
	name    string
	conns   int    // at once; floodConns if 0
	sources int    // addresses; of IPv6 each in a /64 of its own
	says    string // on each connection
	drips   string // and then byte by byte, again and again
	leaves  bool   // each connection at once, for the next
}

// floodConns is several times as many as the port accepts.
const floodConns = 4 * adminhttp.Most

// floodBacklog is how many connections the kernel queues for the port.
var floodBacklog = max(floodConns, lab.Count(4_096))

var floods = []flood{
	{name: "silent", sources: 1},
	{name: "silent, many sources", sources: floodConns},
	{name: "silent, more than the kernel keeps back", conns: floodBacklog * 3 / 2, sources: 1},
	{name: "a header byte by byte", sources: 1, says: "GET /healthz HTTP/1.1\r\nHost: pod\r\n", drips: "X"},
	{name: "a header byte by byte, many sources", sources: floodConns, says: "GET /healthz HTTP/1.1\r\nHost: pod\r\n", drips: "X"},
	{name: "a header without end", sources: 1, says: "GET /healthz HTTP/1.1\r\nX: ", drips: strings.Repeat("x", 4096)},
	{name: "a body that does not come", sources: 1, says: "POST /healthz HTTP/1.1\r\nHost: pod\r\nContent-Length: 1000\r\n\r\n"},
	{name: "a body that does not come, many sources", sources: floodConns, says: "GET /healthz HTTP/1.1\r\nHost: pod\r\nContent-Length: 1000\r\n\r\n"},
	{name: "idle after an answer", sources: 1, says: "GET /healthz HTTP/1.1\r\nHost: pod\r\n\r\n"},
	{name: "answers not read", sources: 1, says: strings.Repeat("GET /readyz HTTP/1.1\r\nHost: pod\r\n\r\n", 2000)},
	{name: "answers not read, many sources", sources: floodConns, says: strings.Repeat("GET /readyz HTTP/1.1\r\nHost: pod\r\n\r\n", 2000)},
	{name: "metrics not read, many sources", sources: floodConns, says: "GET /metrics HTTP/1.1\r\nHost: pod\r\n\r\n"},
	{name: "connect after connect", sources: 1, leaves: true},
	{name: "request after request", sources: 1, says: "GET /healthz HTTP/1.1\r\nHost: pod\r\n\r\n", leaves: true},
}

// TestAdminFlood: the kubelet's probe and a scrape are answered every time, whatever remote clients do
// to the port; and the kernel keeps little for them.
func TestAdminFlood(t *testing.T) {
	lab.Need(t, "curl")
	inModes(t, setup{bare: true}, func(t *testing.T, p *pod) {
		p.Pod.Sysctl("net.core.somaxconn", fmt.Sprint(floodBacklog))
		p.start()
		p.manySources(t)
		for _, f := range floods {
			t.Run(f.name, func(t *testing.T) {
				defer p.flood(t, f)()
				for range lab.Count(5) {
					for _, fam := range p.fams() {
						for _, path := range []string{"/healthz", "/readyz"} {
							url := fmt.Sprintf("http://%s%s", addr(fam.pod, contract.AdminPort), path)
							if out, err := p.Node.Try("curl", "-sSf", "--max-time", "20", url); err != nil {
								t.Fatalf("%s: %v: %s", url, err, out)
							}
						}
					}
				}
				p.scrape(t)
				lab.Eventually(t, "the kernel keeps little", func() error { return p.adminKeeps(f) })
			})
		}
		if strings.Contains(p.sidecar.Output(), "not ready: ") {
			t.Error("the sidecar was not ready for a while")
		}
	})
}

// adminKeeps returns an error if the kernel keeps much for the admin port's connections,
// including those not yet accepted and closed ones.
func (p *pod) adminKeeps(f flood) error {
	const timeWait, listen = 6, 10
	all, err := p.Pod.Sockets()
	n, bytes := 0, 0
	for _, s := range all {
		if s.LocalPort == contract.AdminPort && s.State != timeWait && s.State != listen {
			n++
			bytes += s.SendQueue + s.RecvQueue
		}
	}
	if most := 2 * cmp.Or(f.conns, floodConns); n > most || bytes > most*8<<10 {
		return fmt.Errorf("%d connections with %d bytes", n, bytes)
	}
	return err
}

// The networks of which the client has every address.
const manyNet4, manyNet6 = "10.99.0.0/16", "fd99::/16"

// manySources gives the client any number of addresses.
func (p *pod) manySources(t *testing.T) {
	t.Helper()
	for _, n := range []struct{ family, net, client string }{
		{"-4", manyNet4, lab.Client4}, {"-6", manyNet6, lab.Client6},
	} {
		p.Client.Run("ip", n.family, "route", "add", "local", n.net, "dev", "lo")
		p.Node.Route(n.net, n.client)
	}
	p.Client.Sysctl("net.ipv6.ip_nonlocal_bind", "1")
}

// flooder is the address of flooder i.
func (f family) flooder(i int) netip.AddrPort {
	a := netip.AddrFrom4([4]byte{10, 99, byte(i >> 8), byte(i)})
	if f == v6 {
		a = netip.AddrFrom16([16]byte{0xfd, 0x99, 6: byte(i >> 8), 7: byte(i), 15: 1})
	}
	return netip.AddrPortFrom(a, 0)
}

// flood starts, waits until it has made more connections than it has at once, and so
// has lost many: there was no room, or they were answered. It returns a function that
// ends it.
func (p *pod) flood(t *testing.T, f flood) (end func()) {
	t.Helper()
	stop := make(chan struct{})
	var all sync.WaitGroup
	var made atomic.Int64
	for _, fam := range p.fams() {
		all.Go(func() {
			if err := p.Client.Do(func() error { return f.run(fam, addrPort(t, addr(fam.pod, contract.AdminPort)), &made, stop) }); err != nil {
				t.Errorf("%s: %v", fam.name, err)
			}
		})
	}
	lab.Eventually(t, "the flood has begun", func() error {
		if n := int(made.Load()); n < cmp.Or(f.conns, floodConns)+adminhttp.Most {
			return fmt.Errorf("%d connections", n)
		}
		return nil
	})
	return func() {
		close(stop)
		all.Wait()
	}
}

// run is one thread's part, in the client's namespace.
func (f flood) run(fam family, to netip.AddrPort, made *atomic.Int64, stop chan struct{}) error {
	if err := lab.Yield(); err != nil {
		return err
	}
	fds := make([]int, cmp.Or(f.conns, floodConns)/2)
	for i := range fds {
		fds[i] = -1
	}
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	for round := 0; ; round++ {
		for i := range fds {
			select {
			case <-stop:
				return nil
			default:
			}
			if fds[i] >= 0 && !f.leaves && !gone(fds[i]) {
				if f.drips != "" {
					_, _ = unix.Write(fds[i], []byte(f.drips))
				}
				continue
			}
			unix.Close(fds[i])
			var err error
			if fds[i], err = floodDial(fam.flooder((i+round)%f.sources), to); err != nil {
				return err
			}
			if fds[i] >= 0 {
				made.Add(1)
				_, _ = unix.Write(fds[i], []byte(f.says))
			}
		}
	}
}

// gone reports whether the other side has closed a connection.
func gone(fd int) bool {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, _ := unix.Poll(poll, 0)
	return n > 0 && poll[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
}

// floodDial connects with a small window and a short timeout, and leaves nothing behind
// when the connection is closed. It returns -1 if the other side refuses or does not
// answer.
func floodDial(from, to netip.AddrPort) (fd int, err error) {
	af := unix.AF_INET
	if to.Addr().Is6() {
		af = unix.AF_INET6
	}
	if fd, err = unix.Socket(af, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, err
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096),
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Usec: 100_000}),
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}),
		unix.Bind(fd, sockaddr(from)),
	)
	if err == nil && unix.Connect(fd, sockaddr(to)) == nil {
		return fd, unix.SetNonblock(fd, true)
	}
	unix.Close(fd)
	return -1, err
}
