package main

import (
	"errors"
	"io"
	"net/netip"
	"time"

	"github.com/tproxy-cni/tproxy-cni/internal/version"
	"github.com/tproxy-cni/tproxy-cni/proxy/handover"
	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
)

// succeed takes over from the predecessor. Connections do not wait for the log, in which
// listening writes that the sidecar serves.
func (p *proxy) succeed(from predecessor, listening func()) error {
	if err := p.takeOver(from.Reader); err != nil {
		return err
	}
	from.done()
	s := &from.State
	paused := time.Since(handover.NewClock().Time(s.Frozen)).Round(time.Microsecond)
	go func() {
		p.log.Info("took over", "connections", s.Connections, "from", s.Version, "paused", paused)
		listening()
	}()
	return nil
}

// takeOver makes all that another program hands over this one's, before it serves. Its
// listeners are here already.
func (p *proxy) takeOver(r *handover.Reader) error {
	s, clock := &r.State, handover.NewClock()
	p.started = clock.Time(s.Began)
	p.level.Set(s.Level)
	p.status.takeOver(&s.Pod)
	p.accesslog.Restore(s.Counters.LinesLost, s.LogTold)
	for _, l := range p.loops {
		l.conns.start, l.conns.now = p.started, time.Now()
	}
	first := p.loops[0]
	first.conns.stats.Restore(s.Counters)
	for i, l := range s.Listeners {
		for _, a := range l.Waiting {
			p.places.taken.Add(1)
			p.places.waiting++
			first.acceptors[i].waiting = append(first.acceptors[i].waiting, arrival{int(a.FD), a.Client})
			first.acceptors[i].look = true
		}
	}
	for _, a := range s.Arrivals {
		p.place(a.Client.Addr())
		first.inbox = append(first.inbox, arrival{int(a.FD), a.Client})
	}
	for c := (handover.Conn{}); ; {
		err := r.Next(&c)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		from := c.Client
		if c.Peer.IsValid() {
			from = c.Peer
		}
		p.place(from.Addr())
		p.loops[c.Loop%len(p.loops)].conns.takeOver(&c, clock)
	}
	for _, l := range p.loops {
		l.conns.sortDeadlines()
	}
	if !p.places.free() {
		p.places.full.Store(true)
	}
	return nil
}

// place counts a connection that has its place already.
func (p *proxy) place(client netip.Addr) {
	p.places.taken.Add(1)
	p.places.sources.enter(client, true, 0)
}

// writeDown describes all that there is, while the loops stand still.
func (p *proxy) writeDown() (*handover.Document, error) {
	for _, l := range p.loops {
		l.conns.endSweep()
	}
	clock := handover.NewClock()
	s := &handover.State{
		Format: handover.Format, Version: version.String(), Mode: p.pod.Mode, Began: clock.Moment(p.started), Frozen: clock.Moment(time.Now()),
		Level: p.level.Level(), Counters: p.snapshot(), Pod: p.status.handOver(),
	}
	s.Counters.LinesLost, s.LogTold = p.accesslog.Lost()
	fd, err := sock.Descriptor(p.adminLn)
	if err != nil {
		return nil, err
	}
	s.Admin = handover.Listener{FD: int32(fd), Addr: p.admin}
	for i, a := range p.loops[0].acceptors {
		l := handover.Listener{FD: int32(a.fd)}
		if i == 0 {
			l.Addr = p.pod.Addr
		} else {
			l.Unix = p.front
		}
		for _, w := range a.waiting {
			l.Waiting = append(l.Waiting, handover.Arrival{FD: int32(w.fd), Client: w.client})
		}
		s.Listeners = append(s.Listeners, l)
	}
	for _, l := range p.loops {
		s.Connections += l.conns.count
		for _, a := range l.inbox {
			s.Arrivals = append(s.Arrivals, handover.Arrival{FD: int32(a.fd), Client: a.client})
		}
	}
	return handover.Write(s, func(add func(*handover.Conn) error) error {
		for i, l := range p.loops {
			err := l.conns.handOver(clock, func(c *handover.Conn) error {
				c.Loop = i
				return add(c)
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}
