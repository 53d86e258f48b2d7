package main

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"sync"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

var errNoPort = errors.New("no free port: the client has as many connections to this destination as there are ports for it")

// pair is a client and the destination it talks to. The kernel tells
// connections of one pair apart by the client's port alone.
type pair struct {
	client netip.Addr
	dst    netip.AddrPort
}

// ports chooses the port of a spoofed connection when it cannot be the
// client's own. In tproxy mode the accepted socket is (dst, client:c) and the
// application's is (dst, client:e): e must differ from the port of every
// connection of the same pair, accepted or spoofed.
//
// The ports are given out in turn, so that one comes back as late as can be,
// long after its connection has left TIME_WAIT. The zero value is ready.
type ports struct {
	mu    sync.Mutex
	taken map[taken]uint8 // how many connections there are; none is 0
	most  int             // the map's greatest length
	next  int             // offset into the range; 0: not chosen yet
}

// manyPorts make a map whose memory is worth giving back.
const manyPorts = 1024

// taken is a port of a pair, as bytes: there is one for each connection.
type taken struct {
	client, dst   [16]byte
	dstPort, port uint16
}

func (pr pair) taken(port uint16) taken {
	return taken{pr.client.As16(), pr.dst.Addr().As16(), pr.dst.Port(), port}
}

const spoofPorts = contract.SpoofPortHigh - contract.SpoofPortLow + 1

// ours tells whether a port is one that take gives out.
func ours(port uint16) bool {
	return contract.SpoofPortLow <= port && port <= contract.SpoofPortHigh
}

// hold says that the client has connected from port, one of ours, so that take
// will not give it out. It is undone by release.
func (p *ports) hold(pr pair, port uint16) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.add(pr.taken(port))
}

// take gives out a port that no connection of the pair has. It is undone by
// release.
func (p *ports) take(pr pair) (uint16, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next == 0 {
		// After a restart begin elsewhere than our predecessor did.
		p.next = rand.N(spoofPorts)
	}
	for range spoofPorts {
		p.next = p.next%spoofPorts + 1
		t := pr.taken(uint16(contract.SpoofPortLow + p.next - 1))
		if p.taken[t] == 0 {
			p.add(t)
			return t.port, nil
		}
	}
	return 0, errNoPort
}

// release undoes one hold or take.
func (p *ports) release(pr pair, port uint16) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := pr.taken(port)
	if n := p.taken[t]; n > 1 {
		p.taken[t] = n - 1
		return
	}
	delete(p.taken, t)
	if p.most >= manyPorts && len(p.taken) == 0 {
		p.taken, p.most = nil, 0 // a map never shrinks; a new one is small
	}
}

func (p *ports) add(t taken) {
	if p.taken == nil {
		p.taken = map[taken]uint8{}
	}
	p.taken[t]++
	p.most = max(p.most, len(p.taken))
}
