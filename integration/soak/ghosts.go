package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/integration/traffic"
)

// The rows of clients that vanish: a machine whose link goes down, and one that is cut
// off, whose programs are killed meanwhile, and that comes back.
const (
	ghostsGone = "vanished: the link is down for good"
	ghostsBack = "vanished: cut off, killed, and back"
)

// ghostly is what they are in the middle of, in each family.
var ghostly = []traffic.Spec{
	{Kind: traffic.Idle, Conns: 40},
	{Kind: traffic.Exchange, Conns: 8, Rate: 100},
	{Kind: traffic.Up, Conns: 2},
	{Kind: traffic.Down, Conns: 2},
}

// ghost is a machine of clients that will vanish.
type ghost struct {
	site  *site
	ns    *lab.NS
	procs []*lab.Proc
	conns map[string]int // by family
}

// newGhost joins a machine to the node and opens its connections.
func (s *site) newGhost() *ghost {
	s.ghosts++
	g := &ghost{site: s, ns: lab.New(s.t, "ghost").Up(), conns: map[string]int{}}
	link := fmt.Sprintf("ghost%d", s.ghosts)
	lab.Veth(g.ns, "eth0", s.net.Node, link)
	for _, f := range families {
		net := fmt.Sprintf(f.ghostNet, s.ghosts)
		s.net.Node.Addr(link, fmt.Sprintf("%s1/%d", net, f.bits))
		g.ns.Addr("eth0", fmt.Sprintf("%s2/%d", net, f.bits))
		g.ns.Route("default", net+"1")
	}
	for _, f := range families {
		for i, spec := range ghostly {
			spec.Sources = []netip.Addr{netip.MustParseAddr(fmt.Sprintf(f.ghostNet, s.ghosts) + "2")}
			spec.First = uint64(1000 * i)
			spec.Target = netip.AddrPortFrom(f.pod, ourPort)
			spec.Duration, spec.Grace = time.Hour, hangs // it will not live to see its end
			spec.ExactPort = s.mode != modeTProxy
			cmd, err := traffic.Load(context.Background(), s.self, spec)
			if err == nil && spec.Kind == traffic.Idle {
				_, err = cmd.StdinPipe() // which nobody closes
			}
			if err != nil {
				s.t.Fatalf("a ghost: %v", err)
			}
			g.procs = append(g.procs, g.ns.StartCmd(cmd))
			g.conns[f.name] += spec.Conns
		}
	}
	return g
}

// opened waits until all connections are.
func (g *ghost) opened() error {
	want := 0
	for _, n := range g.conns {
		want += n
	}
	for deadline := time.Now().Add(lab.Patience); ; <-time.After(100 * time.Millisecond) {
		all, err := g.ns.Sockets()
		if err != nil {
			return err
		}
		n := 0
		for _, s := range all {
			const established = 1
			if s.State == established {
				n++
			}
		}
		if n == want {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d connections of %d", n, want)
		}
	}
}

// killed ends the clients, none of which has seen anything wrong before.
func (g *ghost) killed() error {
	var faults []error
	for _, p := range g.procs {
		select {
		case <-p.Done():
			faults = append(faults, errors.New(strings.TrimSpace(p.Output())))
		default:
			p.Kill()
		}
	}
	return errors.Join(faults...)
}

// gone takes the link down and then kills: no packet of the clients' ends arrives.
func (g *ghost) gone() error {
	if out, err := g.ns.Try("ip", "link", "set", "eth0", "down"); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return g.killed()
}

// back drops all packets, kills, and lets them pass again.
func (g *ghost) back() error {
	const cut = "add table inet cut; add chain inet cut in { type filter hook input priority 0; policy drop; }; " +
		"add chain inet cut out { type filter hook output priority 0; policy drop; }"
	if out, err := g.ns.Try("nft", cut); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	err := g.killed()
	<-time.After(3 * time.Second) // retransmissions come and go
	out, cerr := g.ns.Try("nft", "delete", "table", "inet", "cut")
	if cerr != nil {
		cerr = fmt.Errorf("%w: %s", cerr, out)
	}
	return errors.Join(err, cerr)
}

// haunt is one round of a site's ghosts.
func (s *site) haunt(l *ledger) {
	for _, way := range []struct {
		name   string
		vanish func(*ghost) error
	}{{ghostsGone, (*ghost).gone}, {ghostsBack, (*ghost).back}} {
		if s.ghosts >= mostGhosts {
			return
		}
		g := s.newGhost()
		err := g.opened()
		if err == nil {
			err = way.vanish(g)
		}
		if err != nil {
			l.fail(place{way.name, s.mode, "both"}, err)
			continue
		}
		for _, f := range families {
			l.add(place{way.name, s.mode, f.name}, cell{Conns: int64(g.conns[f.name])})
		}
	}
}
