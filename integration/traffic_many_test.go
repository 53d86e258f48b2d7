package integration

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// manyConnections is close to what a hard limit of 20,000 descriptors allows the sidecar,
// which needs two for each.
var manyConnections = lab.Count(9_000)

// TestManyConnections: one client address with thousands of connections at once, then
// with further connections from the very ports that the sidecar uses towards the
// application. None hangs, and each stays the same to the application.
func TestManyConnections(t *testing.T) {
	p := newPod(t, setup{mode: contract.ModeTProxy})
	p.nginx(t)
	f, to := v4, addrPort(t, addr(v4.pod, webPort))
	from := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr(f.client), uint16(shortPort+i))
	}
	fds := make([]int, 0, manyConnections)
	t.Cleanup(func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	})
	err := p.Client.Do(func() error {
		for i := range manyConnections {
			fd, err := rawDial(from(i), to)
			if err != nil {
				return fmt.Errorf("connection %d: %w", i, err)
			}
			fds = append(fds, fd)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	seen := p.askAll(t, fds)
	distinct := map[netip.AddrPort]bool{}
	for _, s := range seen {
		distinct[s] = true
		if s.Addr() != from(0).Addr() {
			t.Fatalf("the application sees %s", s)
		}
	}
	if len(distinct) != manyConnections {
		t.Errorf("the application sees %d distinct clients, not %d", len(distinct), manyConnections)
	}

	if n := int(p.scrape(t)["connections_active"]); n != manyConnections {
		t.Errorf("the metrics have %d connections, not %d", n, manyConnections)
	}
	refused, served := p.clash(t, seen, to)
	t.Logf("from ports in use: %d refused, %d served", refused, served)
	for i, s := range p.askAll(t, fds) {
		if s != seen[i] {
			t.Fatalf("connection %d was %s to the application, and is %s now", i, seen[i], s)
		}
	}
}

// askAll asks nginx for its peer on every connection, and leaves them open.
func (p *pod) askAll(t *testing.T, fds []int) []netip.AddrPort {
	t.Helper()
	var seen []netip.AddrPort
	buf := make([]byte, 4096)
	for i, fd := range fds {
		if err := rawWrite(fd, "GET / HTTP/1.1\r\nHost: pod\r\n\r\n"); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		answer := ""
		for !strings.HasSuffix(answer, "\n") || !strings.Contains(answer, "\r\n\r\n") || strings.HasSuffix(answer, "\r\n\r\n") {
			n, err := rawRead(fd, buf)
			if n <= 0 {
				t.Fatalf("connection %d: read %d bytes, %v after %q", i, n, err, answer)
			}
			answer += string(buf[:n])
		}
		_, body, _ := strings.Cut(answer, "\r\n\r\n")
		text, err := peer(body)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		seen = append(seen, addrPort(t, text))
	}
	return seen
}

// clash connects from every tenth of the ports that the sidecar uses.
func (p *pod) clash(t *testing.T, leased []netip.AddrPort, to netip.AddrPort) (refused, served int) {
	t.Helper()
	err := p.Client.Do(func() error {
		for i := 0; i < len(leased); i += 10 {
			saw, err := askRaw(leased[i], to, false)
			switch {
			case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ECONNRESET):
				refused++
			case err != nil:
				return fmt.Errorf("from %s: %w", leased[i], err)
			case saw.Addr() != leased[i].Addr() || saw == leased[i]:
				return fmt.Errorf("from %s: answered as %s", leased[i], saw)
			default:
				served++
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return refused, served
}
