package main

import (
	"context"
	"sync"
	"time"

	"github.com/tproxy-cni/tproxy-cni/proxy/podstat"
	"github.com/tproxy-cni/tproxy-cni/proxy/probe"
)

const (
	minRecheck = 100 * time.Millisecond
	maxRecheck = 2 * time.Second // while the pod is not prepared

	// While it is, what breaks shows after so long, or sooner by the connections that
	// end in a suspicious way.
	preparedCheck = 5 * time.Second
	suspectCheck  = time.Second // least time between two checks of a prepared pod
	surePatience  = 3 * time.Second

	portsPause = 2 * time.Second // between two checks of the ports
)

// watchPrepared makes the proxy ready while the pod is prepared, and not ready while
// it is not. It logs each change.
func (p *proxy) watchPrepared(ctx context.Context) {
	known := sync.OnceFunc(func() { close(p.checked) })
	defer known()
	last := p.status.unprepared() // nil: prepared
	if last != checking {
		known() // another program has checked
	}
	for wait := minRecheck; ; wait = min(2*wait, maxRecheck) {
		fault := p.check(ctx, last == nil)
		if guard, err := podstat.ReadGuard(); err == nil {
			p.status.setGuard(guard)
		}
		switch {
		case ctx.Err() != nil:
			return
		case last == nil && fault != nil && fault.Reason == probe.Failed:
			// It says nothing about the pod: descriptors are short, say.
			p.log.Debug("the pod could not be checked", "err", fault.Text)
		default:
			p.status.set(fault, time.Now())
			known()
			p.logChange(last, fault)
			last = fault
		}
		more := false
		if last == nil {
			wait = minRecheck
			more = p.pause(ctx)
		} else {
			more = sleep(ctx, wait)
		}
		if !more {
			return
		}
	}
}

func (p *proxy) logChange(from, to *probe.Fault) {
	switch {
	case to == nil && from != nil:
		p.log.Info("ready: the plugin has prepared this pod")
	case to != nil && (from == nil || from.Text != to.Text):
		p.log.Warn("not ready: connections to this pod are not intercepted", "reason", to.Reason, "err", to.Text, "cure", to.Cure)
	}
}

// check is one check of the pod. One that has been ready is not prepared any more if
// two say so: a connection may also take too long because the processor is busy.
func (p *proxy) check(ctx context.Context, ready bool) *probe.Fault {
	fault := p.pod.Prepared(ctx)
	switch {
	case fault != nil && ready:
		patient := p.pod
		patient.Patience = surePatience
		fault = patient.Prepared(ctx)
	case fault == nil && !ready:
		fault = p.pod.Port(ctx)
	}
	return fault
}

// pause waits between two checks of a prepared pod, less if a connection is
// suspicious. It returns false when ctx has ended.
func (p *proxy) pause(ctx context.Context) bool {
	if !sleep(ctx, suspectCheck) {
		return false
	}
	select {
	case <-time.After(preparedCheck - suspectCheck):
	case <-p.suspects:
	case <-ctx.Done():
		return false
	}
	return true
}

// sleep returns false if ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// awaitPorts checks the ports at the start and whenever a client found none, and
// makes the proxy not ready for as long as there are none.
func (p *proxy) awaitPorts(ctx context.Context) {
	logged := false
	for {
		fault := p.pod.Ports()
		p.status.setPorts(fault)
		switch {
		case fault != nil && !logged:
			p.log.Warn("not ready: clients are refused", "reason", fault.Reason, "err", fault.Text, "cure", fault.Cure)
		case fault == nil && logged:
			p.log.Info("ready: there are ports for clients again")
		}
		logged = fault != nil
		if !sleep(ctx, portsPause) {
			return
		}
		if logged {
			continue
		}
		select {
		case <-p.dialer.Refused:
		case <-ctx.Done():
			return
		}
	}
}
