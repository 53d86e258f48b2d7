package main

import (
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/version"
	"github.com/tproxy-cni/tproxy-cni/proxy/metrics"
	"github.com/tproxy-cni/tproxy-cni/proxy/podstat"
	"github.com/tproxy-cni/tproxy-cni/proxy/probe"
	"github.com/tproxy-cni/tproxy-cni/proxy/stats"
)

// snapshot is what has been counted so far. It may be called from any goroutine.
func (p *proxy) snapshot() stats.Snapshot {
	loops := make([]*stats.Loop, len(p.loops))
	for i, l := range p.loops {
		loops[i] = &l.conns.stats
	}
	s := stats.Sum(loops...)
	s.Limit, s.LinesLost = p.places.limit, p.accesslog.Dropped()
	return s
}

// reading is what the kernel shows of the pod.
func (p *proxy) reading() (r podstat.Reading) {
	p.pod.Listeners.Apart(func(ports []uint16) {
		r = podstat.Read(p.pod.Addr.Port(), ports, p.pod.Mode == contract.ModeNAT)
	})
	return r
}

// state is what /metrics shows.
func (p *proxy) state() metrics.State {
	now := p.status.readiness()
	s := metrics.State{
		Version: version.String(), Mode: p.pod.Mode,
		Ready: now.Ready, Reason: string(now.Reason), Checked: now.Checked, Guard: string(now.Guard),
		Snapshot: p.snapshot(), Reading: p.reading(),
	}
	for _, r := range probe.Reasons {
		s.Reasons = append(s.Reasons, string(r))
	}
	return s
}
