package dial

import (
	"math/rand/v2"
	"net/netip"
	"sync"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// Pair is a client and its destination. The kernel tells connections of one pair
// apart by the client's port alone.
type Pair struct {
	Client netip.Addr
	Dst    netip.AddrPort
}

// ports chooses the port of a spoofed connection that cannot have the client's own.
// In tproxy mode the accepted socket is (dst, client:c) and the
// application's is (dst, client:e): e must differ from the port of every
// connection of the same pair, accepted or spoofed.
//
// The ports are given out in turn, so that one is reused as late as possible, long
// after its connection has left TIME_WAIT. The zero value is ready.
type ports struct {
	mu   sync.Mutex
	one  map[pairKey]uint16   // the offset of a pair's only port
	more map[pairKey]*portSet // pairs that have, or had, more than one; never empty sets
	most int                  // greatest length of both maps
	next int                  // offset into the range; 0: not chosen yet
}

// manyPairs is the size at which the maps are worth freeing.
const manyPairs = 1024

// pairKey is a pair as bytes: most clients have one connection to a
// destination, so there may be a key for each.
type pairKey struct {
	client, dst [16]byte
	dstPort     uint16
}

func (pr Pair) key() pairKey {
	return pairKey{pr.Client.As16(), pr.Dst.Addr().As16(), pr.Dst.Port()}
}

const spoofPorts = contract.SpoofPortHigh - contract.SpoofPortLow + 1

// inRange reports whether a port is one that take gives out.
func inRange(port uint16) bool {
	return contract.SpoofPortLow <= port && port <= contract.SpoofPortHigh
}

func offset(port uint16) int { return int(port) - contract.SpoofPortLow }

// hold records that the client has connected from port, which is in the range, so
// that take does not give it out. release undoes it.
func (p *ports) hold(pr Pair, port uint16) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.add(pr.key(), offset(port))
}

// take gives out a port that no connection of the pair has, errNoPort if there is
// none. release undoes it.
func (p *ports) take(pr Pair) (uint16, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next == 0 {
		// After a restart start elsewhere than the process before.
		p.next = rand.N(spoofPorts)
	}
	k := pr.key()
	o, ok := p.free(k, p.next%spoofPorts)
	if !ok {
		return 0, errNoPort
	}
	p.next = o + 1
	p.add(k, o)
	return contract.SpoofPortLow + uint16(o), nil
}

// release undoes one hold or take.
func (p *ports) release(pr Pair, port uint16) {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := pr.key()
	if s := p.more[k]; s == nil {
		delete(p.one, k)
	} else if s.remove(offset(port)); s.empty() {
		delete(p.more, k)
	}
	if p.most >= manyPairs && len(p.one)+len(p.more) == 0 {
		p.one, p.more, p.most = nil, nil, 0 // a map never shrinks; a new one is small
	}
}

// free finds the pair's first offset that is not taken, from the given one on.
func (p *ports) free(k pairKey, from int) (int, bool) {
	if s := p.more[k]; s != nil {
		return s.free(from)
	}
	if o, ok := p.one[k]; ok && int(o) == from {
		from = (from + 1) % spoofPorts
	}
	return from, true
}

func (p *ports) add(k pairKey, o int) {
	if p.one == nil {
		p.one, p.more = map[pairKey]uint16{}, map[pairKey]*portSet{}
	}
	s := p.more[k]
	if first, ok := p.one[k]; s == nil && ok {
		delete(p.one, k)
		s = &portSet{}
		s.add(int(first))
		p.more[k] = s
	}
	if s != nil {
		s.add(o)
	} else {
		p.one[k] = uint16(o)
	}
	p.most = max(p.most, len(p.one)+len(p.more))
}
