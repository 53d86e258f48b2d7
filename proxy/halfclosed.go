package main

import (
	"time"

	"github.com/tproxy-cni/tproxy-cni/proxy/relay"
	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
)

// halfClosed are the connections whose application has sent its FIN while the client
// has not. If the application has closed its socket, not only one direction, the
// kernel forgets it after net.ipv4.tcp_fin_timeout without telling us, and two
// descriptors would be held for as long as the client likes. So the kernel is made to
// probe for the socket, once the connection has been here for a second: one that ends
// at once, as nearly all do, costs no call.
type halfClosed struct {
	fresh, older []ref // since the last sweep, and since the one before
	due          time.Time
}

const lingerTime = time.Second

func (h *halfClosed) add(r ref, now time.Time) {
	if h.due.IsZero() {
		h.due = now.Add(lingerTime)
	}
	h.fresh = append(h.fresh, r)
}

// sweep starts the probes of those that have lingered. It returns when to come
// again, zero if nothing is due.
func (h *halfClosed) sweep(now time.Time) (due time.Time) {
	if h.due.IsZero() || now.Before(h.due) {
		return h.due
	}
	for _, r := range h.older {
		if r.live() {
			r.conn.lingers = true
			sock.KeepAliveLocal(int(r.conn.relay.Sides[relay.Application].FD))
		}
	}
	h.older, h.fresh = h.fresh, h.older[:0]
	if cap(h.fresh) > manyRefs {
		h.fresh = nil
	}
	h.due = time.Time{}
	if len(h.older) > 0 {
		h.due = now.Add(lingerTime)
	}
	return h.due
}

// manyRefs is the length at which a list is worth freeing.
const manyRefs = 1024
