package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/tproxy-cni/tproxy-cni/proxy/accesslog"
	"github.com/tproxy-cni/tproxy-cni/proxy/proxyproto"
	"github.com/tproxy-cni/tproxy-cni/proxy/relay"
	"github.com/tproxy-cni/tproxy-cni/proxy/sys"
)

// headerTime bounds the wait for a header. A sender sends it first and at once; a
// segment that is lost three times comes within this time.
const headerTime = 10 * time.Second

// headers is what a loop has of connections that begin with a PROXY header. Without
// such connections it is empty.
type headers struct {
	// peers are who opened the connections, whose clients are others. Their places
	// count for the peers: it is not known before whom a header names.
	peers map[*conn]netip.AddrPort

	most int // greatest length of peers

	awaited []awaited // earliest deadline first
	kept    int       // of them, when the others were last thrown out

	peeked []byte // MaxSize
	parser proxyproto.Parser
}

// awaited is a connection whose header has not come when it was accepted.
type awaited struct {
	ref
	deadline time.Time
}

var (
	errHeaderTime  = fmt.Errorf("no PROXY header within %v", headerTime)
	errHeaderEnd   = errors.New("no PROXY header: the peer has closed the connection")
	errNotSpoofed  = errors.New("the kernel does not use the address that the PROXY header names")
	errHeaderTaken = errors.New("the bytes of the PROXY header are gone")
)

// awaitHeader begins a connection with its header, which often is there already.
func (cs *conns) awaitHeader(c *conn) {
	cs.headers.enter(c, c.client)
	before := c.ref()
	cs.readHeader(c)
	if before.live() && c.relay.Sides[relay.Application].FD < 0 && cs.watch(c, relay.Client, 0) {
		cs.headers.add(c, cs.now)
	}
}

// readHeader looks at what has come. If that is the whole header, it is taken, and
// what follows it stays in the socket for the relay.
func (cs *conns) readHeader(c *conn) {
	side := &c.relay.Sides[relay.Client]
	n, err := sys.Peek(int(side.FD), cs.headers.peeked)
	if err == nil && side.Failed {
		err = sys.SocketError(int(side.FD)) // the kernel returns first what has come before it
	}
	switch err {
	case nil:
	case sys.ErrAgain:
		return
	default:
		cs.abort(c, senderFailed(n, err))
		return
	}
	how := accesslog.Rejected
	size, err := proxyproto.Size(cs.headers.peeked[:n])
	if err == nil && (size == 0 || n < size) {
		if n > 0 && !side.Ended {
			return
		}
		err = errHeaderEnd // nothing more will come
		if n == 0 {
			how = accesslog.Silent // a probe that only connects
		}
	}
	var h proxyproto.Header
	if err == nil {
		h, err = cs.headers.parser.Parse(cs.headers.peeked[:size])
	}
	if err == nil {
		err = discard(int(side.FD), cs.headers.peeked[:size])
	}
	if err == nil {
		err = cs.introduce(c, h)
	}
	if err != nil {
		cs.abort(c, accesslog.Outcome{How: how, Err: err})
		return
	}
	cs.dial(c, nil)
}

// senderFailed is the end of a connection whose sender failed with err, with n bytes of
// its header there. One that resets before it has sent any is a probe.
func senderFailed(n int, err error) accesslog.Outcome {
	broken := relay.Broken{Side: relay.Client, Err: os.NewSyscallError("read", err)}
	o := accesslog.Outcome{How: broken.How(), Err: broken.Err}
	if n <= 0 && o.How == accesslog.ClientReset {
		o.How = accesslog.Silent
	}
	return o
}

// discard takes len(b) bytes, which are there, out of a socket. It uses b.
func discard(fd int, b []byte) error {
	for taken := 0; taken < len(b); {
		n, err := sys.Discard(fd, b[taken:])
		if err == nil && n == 0 {
			err = errHeaderTaken
		}
		if err != nil {
			return err
		}
		taken += n
	}
	return nil
}

// introduce makes the connection the client's that the header names, if it may. Its
// place stays the peer's.
func (cs *conns) introduce(c *conn, h proxyproto.Header) (err error) {
	if !h.Local {
		if err := cs.dialer.CheckNamed(h.Client.Addr()); err != nil {
			return err
		}
	}
	if c.client == fromFront {
		if c.dst, err = cs.fronts.destination(cs.dialer, h); err != nil {
			return err
		}
		c.client = netip.AddrPortFrom(c.dst.Addr(), 0) // a process of the pod, if it is its own connection
	}
	if !h.Local {
		if c.dst, err = cs.dialer.InFamily(h.Client.Addr(), c.dst); err != nil {
			return err
		}
		c.client = h.Client
		c.attempt.Named()
	}
	return cs.dialer.Check(c.client.Addr(), c.dst)
}

// sourceHolds makes sure, before any byte is passed on, that the application sees the
// client that a header names. If not, it ends the connection.
func (cs *conns) sourceHolds(c *conn) bool {
	if c.attempt.Plain() {
		return true
	}
	local, err := sys.LocalAddr(int(c.relay.Sides[relay.Application].FD))
	if err == nil && local.Addr() == c.client.Addr() {
		return true
	}
	cs.abort(c, accesslog.Outcome{How: accesslog.Rejected, Err: errNotSpoofed})
	return false
}

// enter makes c a connection whose header the peer sends, or has sent.
func (h *headers) enter(c *conn, peer netip.AddrPort) {
	if h.peers == nil {
		h.peers = map[*conn]netip.AddrPort{}
	}
	if h.peeked == nil {
		h.peeked = make([]byte, proxyproto.MaxSize)
	}
	c.headed = true
	h.peers[c] = peer
	h.most = max(h.most, len(h.peers))
}

func (h *headers) add(c *conn, now time.Time) {
	if len(h.awaited) >= max(manyRefs, 2*h.kept) {
		// Most headers come at once: those that did not are the fewest of the list.
		h.awaited = slices.DeleteFunc(h.awaited, func(a awaited) bool { return !a.waits() })
		h.kept = len(h.awaited)
	}
	h.awaited = append(h.awaited, awaited{c.ref(), now.Add(headerTime)})
}

func (a awaited) waits() bool {
	return a.live() && a.conn.dialing && a.conn.relay.Sides[relay.Application].FD < 0
}

// leave forgets a connection that ends and returns its peer.
func (h *headers) leave(c *conn) netip.AddrPort {
	peer := h.peers[c]
	delete(h.peers, c)
	if h.most >= manyRefs && len(h.peers) == 0 {
		h.peers, h.most = nil, 0 // a map never shrinks; a new one is small
	}
	return peer
}

// expireHeaders ends the connections whose header has not come in time. It returns the
// deadline of the next, zero if there is none.
func (cs *conns) expireHeaders() (due time.Time) {
	h := &cs.headers
	for len(h.awaited) > 0 {
		a := h.awaited[0]
		if a.waits() {
			if cs.now.Before(a.deadline) {
				return a.deadline
			}
			cs.abort(a.conn, accesslog.Outcome{How: accesslog.Rejected, Err: errHeaderTime})
		}
		h.awaited = h.awaited[1:]
	}
	h.awaited, h.kept = nil, 0
	return due
}
