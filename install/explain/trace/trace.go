// Package trace follows TCP handshakes through the nftables rules of a network
// namespace: for each packet, the rules that it met and what they decided.
//
// It puts a table of its own there, which marks the packets to follow (meta
// nftrace). The kernel removes that table together with the socket that made it
// (NFT_TABLE_F_OWNER, Linux 5.12), so nothing is left behind even where the process
// is killed; on an older kernel Close removes it. No packet is changed or kept back, and other tables are not touched.
//
//	arm.go    the table
//	event.go  what the kernel says of a packet at a rule
//	rules.go  the rules' names
//	packet.go a packet's way, made of events
package trace

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	mnl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// receiveBuffer, in bytes, holds some 4,000 events: a handshake has about 40.
const receiveBuffer = 4 << 20

// pause is how late the end of a context may be noticed.
const pause = 50 * time.Millisecond

// Wanted says which connections to follow.
type Wanted struct {
	Interface string     // on which clients come in: "eth0"
	Client    netip.Addr // the zero value follows every client
	Port      uint16     // of the application; 0 follows every port
	PerSecond uint32     // most packets of each kind that are followed in a second; at least 1

	// UID and Mark tell the sidecar's own connections on lo from others there
	// where Client is zero.
	UID, Mark uint32
}

// Tracer follows connections until it is closed.
type Tracer struct {
	owner  *mnl.Conn // whose table it is: the kernel removes it with this socket
	table  string    // the table's name, if the kernel does not remove it; else empty
	events *mnl.Conn
	rules  rules
	links  map[uint32]string // name by index

	// Lost is how many times the kernel had more to say than could be kept.
	Lost int
}

// Arm begins to follow. Its error is the kernel's, with what it refused. It needs
// CAP_NET_ADMIN in the namespace and CAP_SYS_ADMIN to enter it.
func Arm(pod ns.NetNS, w Wanted) (t *Tracer, err error) {
	armed := &Tracer{}
	defer func() {
		if err != nil {
			armed.Close()
		}
	}()
	dial := func() (*mnl.Conn, error) {
		return mnl.Dial(unix.NETLINK_NETFILTER, &mnl.Config{NetNS: int(pod.Fd())})
	}
	if armed.owner, err = dial(); err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	if armed.events, err = dial(); err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	if armed.links, err = linkNames(pod); err != nil {
		return nil, err
	}
	// Without the privilege for it the buffer stays as it is.
	_ = armed.events.SetReadBuffer(receiveBuffer)
	if err = armed.events.JoinGroup(unix.NFNLGRP_NFTRACE); err != nil {
		return nil, fmt.Errorf("subscribe to nftables' traces: %w", err)
	}
	_, err = arm(armed.owner, w, tableOwner)
	if errors.Is(err, unix.EINVAL) { // a flag that the kernel does not know
		_ = armed.owner.Close() // more answers to the refused transaction wait there
		if armed.owner, err = dial(); err == nil {
			armed.table, err = arm(armed.owner, w, 0)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("add the table that marks packets for the trace: %w", err)
	}
	if armed.rules, err = readRules(armed.owner); err != nil {
		return nil, err
	}
	return armed, nil
}

// Close ends the trace and removes the table.
func (t *Tracer) Close() {
	if t.table != "" {
		_ = disarm(t.owner, t.table)
	}
	for _, c := range []*mnl.Conn{t.owner, t.events} {
		if c != nil {
			_ = c.Close()
		}
	}
}

// Next waits for events. It returns what has come, in order, and ctx's error when
// that ends; any other error is the kernel's.
func (t *Tracer) Next(ctx context.Context) (list []Event, err error) {
	for len(list) == 0 {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := t.events.SetReadDeadline(time.Now().Add(pause)); err != nil {
			return nil, fmt.Errorf("read nftables' traces: %w", err)
		}
		messages, err := t.events.Receive()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			continue
		case errors.Is(err, unix.ENOBUFS):
			t.Lost++
			continue
		case err != nil:
			return nil, fmt.Errorf("read nftables' traces: %w", err)
		}
		known := false
		for _, m := range messages {
			e, ok := t.event(m)
			if ok && e.Handle != 0 && e.Rule == 0 && !known {
				// The pod was programmed again. One look is enough for what has come.
				if t.rules, err = readRules(t.owner); err != nil {
					return nil, err
				}
				known = true
				e, ok = t.event(m)
			}
			if ok {
				list = append(list, e)
			}
		}
	}
	return list, nil
}
