package integration

import (
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// end is one address of a namespace.
type end struct {
	ns *lab.NS
	ip string
}

// wantTalk checks that from reaches to over TCP, UDP and ICMP, and is seen as from.
func wantTalk(t *testing.T, from, to end) { t.Helper(); wantTalkAs(t, from, to, from.ip) }

// wantTalkAs is wantTalk where from is seen with another address.
func wantTalkAs(t *testing.T, from, to end, seen string) {
	t.Helper()
	for _, err := range []error{tcpTalk(from, to, seen), udpTalk(from, to, seen)} {
		if err != nil {
			t.Errorf("%s to %s: %v", from.ip, to.ip, err)
		}
	}
	if out, err := from.ns.Try("ping", "-c1", "-W5", "-I", from.ip, to.ip); err != nil {
		t.Errorf("ping: %v\n%s", err, out)
	}
}

func tcpTalk(from, to end, seen string) error {
	l, err := to.ns.Listen("tcp", addr(to.ip, 0))
	if err != nil {
		return err
	}
	defer l.Close()
	conn, err := from.ns.Dial("tcp", from.ip, l.Addr().String())
	if err != nil {
		return err
	}
	defer conn.Close()
	peer, err := acceptFrom(l)
	if err != nil {
		return err
	}
	defer peer.Close()
	return sameHost(peer.RemoteAddr(), seen)
}

// acceptFrom accepts, or fails in time.
func acceptFrom(l net.Listener) (net.Conn, error) {
	if err := l.(*net.TCPListener).SetDeadline(time.Now().Add(lab.Patience)); err != nil {
		return nil, err
	}
	return l.Accept()
}

// udpTalk sends a packet and gets it back.
func udpTalk(from, to end, seen string) error {
	server, err := listenUDP(to)
	if err != nil {
		return err
	}
	defer server.Close()
	conn, err := from.ns.Dial("udp", from.ip, server.LocalAddr().String())
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.Write(payload); err != nil {
		return err
	}
	buf := make([]byte, 100)
	n, peer, err := server.ReadFrom(buf)
	if err != nil {
		return err
	}
	if _, err := server.WriteTo(buf[:n], peer); err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Now().Add(lab.Patience)); err != nil {
		return err
	}
	if _, err := conn.Read(buf); err != nil {
		return err
	}
	return sameHost(peer, seen)
}

// listenUDP listens on any port; its reads end in time.
func listenUDP(at end) (conn net.PacketConn, err error) {
	err = at.ns.Do(func() (err error) {
		conn, err = net.ListenPacket("udp", addr(at.ip, 0))
		return err
	})
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Now().Add(lab.Patience))
}

func sameHost(a net.Addr, ip string) error {
	if host, _, err := net.SplitHostPort(a.String()); err != nil || host != ip {
		return fmt.Errorf("seen as %s, not %s", a, ip)
	}
	return nil
}

// wantRefused: a connection is refused at once, which is to say by a RST.
func wantRefused(t *testing.T, from end, to string) {
	t.Helper()
	conn, err := from.ns.Dial("tcp", from.ip, to)
	if err == nil {
		conn.Close()
		t.Errorf("%s to %s: connected", from.ip, to)
	} else if !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("%s to %s: %v, want a refusal", from.ip, to, err)
	}
}
