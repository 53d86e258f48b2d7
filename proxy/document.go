package main

import (
	"os"
	"strings"
	"sync"
	"time"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
	"github.com/tproxy-cni/tproxy-cni/internal/version"
	"github.com/tproxy-cni/tproxy-cni/proxy/podstat"
	"github.com/tproxy-cni/tproxy-cni/proxy/report"
)

// freshFor is how long a document is answered again: however many ask, and however
// often, the loops walk four times a second at most.
const freshFor = 250 * time.Millisecond

// documents keeps the last one. Nothing is done while nobody asks.
type documents struct {
	mu             sync.Mutex
	until          time.Time
	last           report.Document
	byBytes, byAge []report.Connection
}

// document is what /status shows, with the connections in this order. It may be called
// from any goroutine.
func (p *proxy) document(order string) report.Document {
	ds := &p.documents
	ds.mu.Lock()
	defer ds.mu.Unlock()
	if time.Now().After(ds.until) {
		live, byBytes, byAge := p.census.take(p.loops)
		ds.byBytes, ds.byAge = report.First(byBytes, report.ByBytes), report.First(byAge, report.ByAge)
		ds.last = p.describe()
		ds.last.Live = live
		ds.until = time.Now().Add(freshFor)
	}
	d := ds.last
	if d.Live.SortedBy, d.Live.List = order, ds.byBytes; order == report.ByAge {
		d.Live.List = ds.byAge
	}
	return d
}

// describe is a document without connections.
func (p *proxy) describe() report.Document {
	ready, now := p.status.readiness(), time.Now()
	d := report.Document{
		Version: version.String(), Mode: p.pod.Mode, Address: p.pod.Addr, AdminAddress: p.admin,
		UID: os.Getuid(), Loops: len(p.loops), Time: now.UTC(), UptimeSeconds: now.Sub(p.started).Seconds(),
		Readiness: report.Readiness{Ready: ready.Ready, Reason: string(ready.Reason), Text: printable.Line(ready.Text), Cure: printable.Line(ready.Cure)},
		Guard:     string(ready.Guard),
		Counters:  p.snapshot(), Pod: p.reading(), Routing: []podstat.Routing{},
	}
	if checked := ready.Checked.UTC(); !checked.IsZero() {
		d.Readiness.Checked = &checked
	}
	if d.Pod.Queues == nil {
		d.Pod.Queues = []podstat.Queue{} // [] in JSON, not null
	}
	if err := d.Pod.Err; err != nil {
		d.PodError = printable.Line(strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	has := [2]bool{true, true} // where it is unknown, what is shown tells
	for i, six := range []bool{false, true} {
		if own, err := p.pod.Own.One(six); err == nil && !own.IsValid() {
			has[i] = false
			continue
		}
		d.Routing = append(d.Routing, podstat.ReadRouting(six))
	}
	d.Sysctls = podstat.ReadSysctls(has[1], p.pod.Mode == contract.ModeNAT)
	return d
}
