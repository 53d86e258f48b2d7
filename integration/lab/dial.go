package lab

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// clientPorts gives each client that dials from an address a port of its own, of
// the range that Linux gives to clients. The kernel would choose the same port
// again for another port of the pod, once in a few thousand; in nat mode conntrack
// then gives the second connection another source port.
var clientPorts atomic.Uint32

// clientPort is even, as what connect(2) chooses: bind(2) chooses odd ones for those
// who listen, and a client's port that the pod listens on the sidecar cannot have.
func clientPort() uint16 {
	const low, high = 32768, 60999
	return uint16(low + 2*(clientPorts.Add(1)%((high-low)/2)))
}

// Dial connects from inside the namespace. The local address may be empty, an
// address or address:port; the addresses must be literal. From an address alone,
// each TCP connection has another port.
func (ns *NS) Dial(network, local, remote string) (net.Conn, error) {
	from, err := localEnd(local)
	if err != nil {
		return nil, err
	}
	if !from.IsValid() || from.Port() != 0 || !strings.HasPrefix(network, "tcp") {
		return ns.dial(network, from, remote)
	}
	for {
		conn, err := ns.dial(network, netip.AddrPortFrom(from.Addr(), clientPort()), remote)
		if !errors.Is(err, unix.EADDRINUSE) { // else another process has the port
			return conn, err
		}
	}
}

// localEnd reads "", an address or address:port. The zero value is "".
func localEnd(local string) (netip.AddrPort, error) {
	if local == "" {
		return netip.AddrPort{}, nil
	}
	if a, err := netip.ParseAddr(local); err == nil {
		return netip.AddrPortFrom(a, 0), nil
	}
	return netip.ParseAddrPort(local)
}

func (ns *NS) dial(network string, from netip.AddrPort, remote string) (conn net.Conn, err error) {
	d := net.Dialer{Timeout: limit(20 * time.Second)}
	switch {
	case !from.IsValid():
	case strings.HasPrefix(network, "udp"):
		d.LocalAddr = net.UDPAddrFromAddrPort(from)
	default:
		d.LocalAddr = net.TCPAddrFromAddrPort(from)
	}
	err = ns.Do(func() (err error) {
		conn, err = d.Dial(network, remote)
		return err
	})
	return conn, err
}

// Get requests a URL, whose host must be literal, from inside the namespace, and
// returns the status and the body: for a state to wait for. A test of what an HTTP
// client gets runs curl, which takes ten times as long to start.
func (ns *NS) Get(url string) (status int, body string, err error) {
	c := http.Client{
		Timeout: limit(20 * time.Second),
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext:       func(_ context.Context, network, addr string) (net.Conn, error) { return ns.Dial(network, "", addr) },
		},
	}
	resp, err := c.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}
