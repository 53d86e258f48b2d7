package main

import (
	"net/netip"
	"sync/atomic"

	"github.com/tproxy-cni/tproxy-cni/proxy/accesslog"
	"github.com/tproxy-cni/tproxy-cni/proxy/dial"
)

// shared is what all loops use. A running connection needs none of it: only its
// beginning and its end do.
type shared struct {
	// destination is the original destination of an accepted connection.
	destination func(fd int, client netip.AddrPort) (netip.AddrPort, error)

	dialer    *dial.Dialer
	accesslog *accesslog.Log
	status    status
	suspects  chan struct{} // gets a value when a connection ends in a suspicious way; has room for one
	places    places

	limitsReceive bool // sock.LimitsReceive

	trusted trusted // whose connections begin with a PROXY header
	fronts  fronts  // that hand connections over on the unix socket

	still still // while everything is handed over

	draining atomic.Bool // accept no more, once the listener's queue is empty
	cut      atomic.Bool // reset all connections
	closed   atomic.Bool // the listener is closed: no loop gets another connection
}

// suspect asks for a check of the pod if a connection has ended in a suspicious way.
func (s *shared) suspect(o accesslog.Outcome) {
	if !o.Suspicious() {
		return
	}
	select {
	case s.suspects <- struct{}{}:
	default: // one is there already
	}
}
