package adminhttp

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/tproxy-cni/tproxy-cni/internal/source"
)

const (
	// Most is the number of connections at once, and so of descriptors.
	Most = 64

	// few connections of a source count as one: a kubelet's probes may come at the
	// same moment.
	few = 4
)

// door bounds the connections. When there are [Most], the next one is admitted all the
// same, and one that waits for its peer is reset: the oldest of the address with the
// most connections, of the source with the most.
//
// Why a probe gets its answer, whatever other clients do:
//
//   - Its request is here when it is accepted: the kernel holds the connection back
//     until then (TCP_DEFER_ACCEPT). So it never waits for its peer before it is
//     answered, and is not reset before.
//   - It is admitted at once. If no connection waits for its peer, all are about to be
//     answered, which depends on no peer.
//
// That leaves a request in two packets, and a kernel that answers a flood with SYN
// cookies, which holds nothing back. Then a probe may have to wait for its second
// packet. It is the youngest, of a source that has few connections; a flood from one
// machine or several resets its own. To reset the probe it takes [Most] younger
// connections, from a quarter as many sources (few of each), before that packet
// comes.
type door struct {
	mu      sync.Mutex
	changed sync.Cond // a connection waits for its peer now, or is gone
	open    []*conn   // oldest first
	closed  bool
}

func newDoor() *door {
	d := &door{}
	d.changed.L = &d.mu
	return d
}

var errClosed = errors.New("the admin port is closed")

// admit counts a new connection. The error says that it has been closed.
func (d *door) admit(tcp *net.TCPConn) (*conn, error) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, tcp.Close())
	}
	c := &conn{TCPConn: tcp, raw: raw, door: d, address: tcp.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()}
	c.source = source.Of(c.address)
	out, err := d.enter(c)
	// Not under the lock: it waits until the connection's read has returned.
	if out != nil {
		out.reset()
	}
	return c, err
}

// enter counts c, and no longer the one that out must be reset for it, if any. With
// the error that is c itself.
func (d *door) enter(c *conn) (out *conn, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for !d.closed && len(d.open) >= Most {
		at := d.turn()
		if at >= 0 {
			out = d.open[at]
			d.open = slices.Delete(d.open, at, at+1)
			break
		}
		d.changed.Wait()
	}
	if d.closed {
		return c, errClosed
	}
	d.open = append(d.open, c)
	return out, nil
}

// turn is the index of the connection to reset, -1 if none waits for its peer.
func (d *door) turn() int {
	sources, addresses := map[netip.Prefix]int{}, map[netip.Addr]int{}
	for _, c := range d.open {
		sources[c.source]++
		addresses[c.address]++
	}
	at, most := -1, []int{0, 0}
	for i, c := range d.open {
		has := []int{max(few, sources[c.source]), max(few, addresses[c.address])}
		if c.waits && slices.Compare(has, most) > 0 {
			at, most = i, has
		}
	}
	return at
}

// empty resets all connections and admits no more.
func (d *door) empty() {
	d.mu.Lock()
	all := d.open
	d.open, d.closed = nil, true
	d.changed.Broadcast()
	d.mu.Unlock()
	for _, c := range all {
		c.reset()
	}
}

// busy reports whether a connection is being served that does not wait for its peer.
func (d *door) busy() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.ContainsFunc(d.open, func(c *conn) bool { return !c.waits })
}

func (d *door) forget(c *conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if i := slices.Index(d.open, c); i >= 0 {
		d.open = slices.Delete(d.open, i, i+1)
		d.changed.Signal()
	}
}

// wait records whether c waits for its peer.
func (d *door) wait(c *conn, waits bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c.waits = waits; waits {
		d.changed.Signal()
	}
}
