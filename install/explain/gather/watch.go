package gather

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/tproxy-cni/tproxy-cni/install/explain"
	"github.com/tproxy-cni/tproxy-cni/install/explain/trace"
)

// mostPackets bounds what is kept of packets whose connection is not told yet.
const mostPackets = 512

// Watch follows connections to f.Port (every port for 0) of f.Client (every client for
// the zero value) until ctx ends, and calls tell for each, in the order of their ends,
// with what the facts are by then.
// Of the packets of a second at most perSecond of a kind are followed: under load these
// are a sample. lost is how often the kernel had more to say than could be kept. It
// needs root on the node; its error is the kernel's.
func Watch(ctx context.Context, f *explain.Facts, port uint16, tell func(explain.Facts, *explain.Story)) (lost int, err error) {
	pod, err := ns.GetNS(f.NetNS)
	if err != nil {
		return 0, err
	}
	defer pod.Close()
	g := gatherer{pod, f, port}
	t, err := g.arm(f.Client, port)
	if err != nil {
		return 0, err
	}
	defer t.Close()
	var packets []*trace.Packet
	since := map[*trace.Packet]time.Time{}
	for ctx.Err() == nil {
		round, cancel := context.WithTimeout(ctx, rest)
		events, err := t.Next(round)
		cancel()
		if err != nil && !errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			return t.Lost, err
		}
		packets = trace.Collect(packets, events)
		if extra := len(packets) - mostPackets; extra > 0 {
			packets = packets[extra:]
		}
		now := time.Now()
		for _, s := range explain.Split(packets) {
			first := s.Packets[0]
			if _, known := since[first]; !known {
				since[first] = now
			}
			if age := now.Sub(since[first]); age < rest || age < patience && !s.Whole() {
				continue
			}
			// Both may have changed.
			if err := errors.Join(g.listeners(), g.replaced()); err != nil {
				return t.Lost, err
			}
			tell(*f, s)
			delete(since, first)
			packets = slices.DeleteFunc(packets, func(p *trace.Packet) bool { return slices.Contains(s.Packets, p) })
		}
		for p := range since { // those that were too many
			if !slices.Contains(packets, p) {
				delete(since, p)
			}
		}
	}
	return t.Lost, nil
}
