package main

import (
	"net/netip"
	"time"

	"github.com/tproxy-cni/tproxy-cni/proxy/dial"
	"github.com/tproxy-cni/tproxy-cni/proxy/relay"
	"github.com/tproxy-cni/tproxy-cni/proxy/stats"
	"github.com/tproxy-cni/tproxy-cni/proxy/sys"
)

// conn is one intercepted connection. It belongs to one loop. While idle it is all
// that there is besides its two descriptors: no goroutine, timer or buffer.
type conn struct {
	id       uint32        // tells an event for this connection from a stale one; 0: ended
	port     uint16        // that we dialled from, in the client's name
	dialing  bool          // or, while there is no socket of the application, waiting for a header
	yielded  bool          // it is in conns.yielded
	lingers  bool          // the application has sent its FIN and the client has not, for a while
	served   bool          // the application has sent its FIN before the client
	halved   bool          // counted as half-closed
	headed   bool          // it begins with a PROXY header: headers.peers has its peer
	halvedAt tenths        // since when
	began    time.Duration // of the loop's time

	client, dst netip.AddrPort

	attempt dial.Attempt
	relay   relay.Relay
	watched [2]uint32 // events that epoll reports of each side; 0: it does not know the socket yet
}

// source is the address that the application sees, zero while there is none.
func (c *conn) source() (source netip.AddrPort) {
	switch fd := c.relay.Sides[relay.Application].FD; {
	case fd < 0:
	case c.attempt.Plain():
		source, _ = sys.LocalAddr(int(fd))
	default:
		source = netip.AddrPortFrom(c.client.Addr(), c.port)
	}
	return source
}

// spoof is what the application sees of the client.
func (c *conn) spoof() stats.Spoof {
	switch {
	case c.attempt.Plain():
		return stats.None
	case c.port == c.client.Port():
		return stats.AddressPort
	}
	return stats.Address
}

func (c *conn) pair() dial.Pair { return dial.Pair{Client: c.client.Addr(), Dst: c.dst} }

// ref is a connection that may have ended since, and its memory be another's.
type ref struct {
	conn *conn
	id   uint32
}

func (c *conn) ref() ref { return ref{c, c.id} }

func (r ref) live() bool { return r.conn.id == r.id }
