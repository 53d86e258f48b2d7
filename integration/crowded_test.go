package integration

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// What 1,024 open files allow the sidecar: as many connections, and of them as
// many for sources that have few, and half of that for clients that wait.
const (
	crowdFiles    = 1024
	crowdLimit    = (crowdFiles - (2*64 + 64 + 32)) / 2
	crowdReserved = crowdLimit / 16
	crowdWaiting  = crowdReserved / 2
)

// TestCrowdedOut: a client that opens as many connections as it can leaves room for
// others, however many addresses of one IPv6 network it uses. When it is gone
// everything is as before.
func TestCrowdedOut(t *testing.T) {
	lab.Need(t, "curl", "prlimit")
	inModes(t, setup{files: crowdFiles}, func(t *testing.T, p *pod) {
		p.manySources(t)
		p.nginx(t)
		p.inFamilies(t, func(t *testing.T, f family) {
			before := p.scrape(t)
			fds := p.crowd(t, f, 0, 2*crowdLimit)
			p.sidecar.WaitLog(fmt.Sprintf("has %d of the %d connections", crowdLimit-crowdReserved, crowdLimit))
			lab.Eventually(t, "the metrics", func() error {
				now, most := p.scrape(t), crowdLimit-crowdReserved+crowdWaiting
				const end = "connections_closed_total{crowded}"
				if n := int(now[end] - before[end]); n != 2*crowdLimit-most || int(now["connections_active"]) != most {
					return fmt.Errorf("%d refused and %g active of %d, want %d", n, now["connections_active"], 2*crowdLimit, most)
				}
				return nil
			})
			for other := 1; other < 10; other++ {
				p.wantServed(t, f, other)
			}
			for _, fd := range fds {
				unix.Close(fd)
			}
			lab.Eventually(t, "the first client is served again", func() error { return p.served(f, 0) })
			p.wantNone(t)
		})
	})
}

// TestCrowdOfOne: if all clients are one source, as behind a gateway, it gets fifteen
// sixteenths of the connections. Some more wait until others end, and are then
// served.
func TestCrowdOfOne(t *testing.T) {
	inModes(t, setup{files: crowdFiles}, func(t *testing.T, p *pod) {
		p.manySources(t)
		p.nginx(t)
		p.inFamilies(t, func(t *testing.T, f family) {
			fds := p.crowd(t, f, 0, crowdLimit-crowdReserved+crowdWaiting+1)
			served, waiting := fds[:crowdLimit-crowdReserved], fds[crowdLimit-crowdReserved:len(fds)-1]
			p.askAll(t, served)
			if more := fds[len(fds)-1]; more >= 0 {
				if n, err := rawRead(more, make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
					t.Errorf("one connection more than may wait was not reset: read %d (%v)", n, err)
				}
			}
			// One by one: each connection that ends makes room for the next.
			for i := range waiting {
				unix.Close(served[i])
				p.askAll(t, waiting[i:i+1])
			}
			for _, fd := range fds[len(waiting):] {
				unix.Close(fd)
			}
			lab.Eventually(t, "another connection", func() error { return p.served(f, 0) })
			p.wantNone(t)
		})
	})
}

// TestCrowdDrains: clients that wait for a place when the sidecar gets SIGTERM are
// served, like those that wait in the kernel's accept queue.
func TestCrowdDrains(t *testing.T) {
	inModes(t, setup{files: crowdFiles}, func(t *testing.T, p *pod) {
		p.manySources(t)
		p.nginx(t)
		fds := p.crowd(t, v4, 0, crowdLimit-crowdReserved+crowdWaiting)
		p.sidecar.WaitLog("its further ones wait")
		p.sidecar.Signal(syscall.SIGTERM)
		p.askAll(t, fds)
		for _, fd := range fds {
			unix.Close(fd)
		}
		if err := p.sidecar.Wait(); err != nil {
			t.Errorf("ended with %v", err)
		}
	})
}

// TestCrowdBehind: a client that waits behind a source that stays full is served when
// one of its own connections ends.
func TestCrowdBehind(t *testing.T) {
	inModes(t, setup{files: crowdFiles}, func(t *testing.T, p *pod) {
		p.manySources(t)
		p.nginx(t)
		p.inFamilies(t, func(t *testing.T, f family) {
			full := p.crowd(t, f, 0, crowdLimit-crowdReserved+1)
			p.askAll(t, full[:len(full)-1])
			few := p.crowd(t, f, 1, 2)
			p.askAll(t, few[:1])
			unix.Close(few[0])
			p.askAll(t, few[1:])
			unix.Close(few[1])
			for _, fd := range full {
				unix.Close(fd)
			}
			p.wantNone(t)
		})
	})
}

// crowd connects so many times from the source of a number, in IPv6 each time from
// another of its addresses. A connection that is reset before connect has returned,
// as may be on a slow computer, is a negative descriptor.
func (p *pod) crowd(t *testing.T, f family, number, n int) (fds []int) {
	t.Helper()
	to := addrPort(t, addr(f.pod, webPort))
	err := p.Client.Do(func() error {
		for i := range n {
			from := f.flooder(number)
			if f == v6 {
				a := from.Addr().As16()
				a[14] = byte(i)
				from = netip.AddrPortFrom(netip.AddrFrom16(a), 0)
			}
			fd, err := rawDial(from, to)
			if errors.Is(err, unix.ECONNRESET) {
				fd = -1
			} else if err != nil {
				return fmt.Errorf("connection %d: %w", i, err)
			}
			fds = append(fds, fd)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return fds
}

// served makes a request with curl from the source of a number, and compares it with
// the peer that nginx saw.
func (p *pod) served(f family, number int) error {
	from := f.flooder(number).Addr().String()
	saw, err := p.Client.Try("curl", "-sS", "--max-time", "20", "--interface", from, "http://"+addr(f.pod, webPort))
	if err != nil {
		return fmt.Errorf("%w: %s", err, saw)
	}
	if !strings.HasPrefix(saw, from+" ") {
		return fmt.Errorf("the application saw %q, not %s", saw, from)
	}
	return nil
}

func (p *pod) wantServed(t *testing.T, f family, number int) {
	t.Helper()
	if err := p.served(f, number); err != nil {
		t.Errorf("client %d: %v", number, err)
	}
}
