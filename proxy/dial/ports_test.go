package dial

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

var (
	pairA = Pair{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddrPort("192.0.2.2:80")}
	pairB = Pair{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddrPort("192.0.2.2:81")}
)

// TestPortsTurn: a port comes back after all others.
func TestPortsTurn(t *testing.T) {
	var p ports
	seen := map[uint16]bool{}
	for range spoofPorts {
		port, err := p.take(pairA)
		if err != nil {
			t.Fatal(err)
		}
		if seen[port] || port < contract.SpoofPortLow || port > contract.SpoofPortHigh {
			t.Fatalf("port %d twice or out of range", port)
		}
		seen[port] = true
		p.release(pairA, port)
	}
	if len(p.one)+len(p.more) != 0 {
		t.Errorf("%d pairs are left", len(p.one)+len(p.more))
	}
}

func TestPortsExhausted(t *testing.T) {
	var p ports
	p.hold(pairA, 20000) // the client's own
	for range spoofPorts - 1 {
		if port, err := p.take(pairA); err != nil || port == 20000 {
			t.Fatal(port, err)
		}
	}
	if _, err := p.take(pairA); !errors.Is(err, errNoPort) {
		t.Errorf("got %v, want %v", err, errNoPort)
	}
	if _, err := p.take(pairB); err != nil {
		t.Errorf("another pair: %v", err)
	}
	p.release(pairA, 20000)
	if port, err := p.take(pairA); err != nil || port != 20000 {
		t.Errorf("got %d, %v, want the port that was released", port, err)
	}
}

// TestPortsCount: two connections may hold one port, as the client's and, for
// the moment of a failing dial, as the leased one.
func TestPortsCount(t *testing.T) {
	var p ports
	for _, others := range []int{0, fewPorts, 1000} {
		var leased []uint16
		for range others {
			port, _ := p.take(pairA)
			leased = append(leased, port)
		}
		const port = 20000
		p.hold(pairA, port)
		p.hold(pairA, port)
		p.hold(pairA, port)
		p.release(pairA, port)
		p.release(pairA, port)
		p.next = port - contract.SpoofPortLow
		if got, err := p.take(pairA); err != nil || got == port {
			t.Errorf("beside %d others: %d, %v: a port that is still held was given out", others, got, err)
		} else {
			p.release(pairA, got)
		}
		p.release(pairA, port)
		p.next = port - contract.SpoofPortLow
		if got, err := p.take(pairA); err != nil || got != port {
			t.Errorf("beside %d others: %d, %v: a port that was released twice was not given out", others, got, err)
		}
		p.release(pairA, port)
		for _, port := range leased {
			p.release(pairA, port)
		}
	}
	if len(p.one)+len(p.more) != 0 {
		t.Error("something is left")
	}
}

func TestLease(t *testing.T) {
	var p ports
	var l lease
	l.hold(&p, pairA, 40000) // not in the range
	l.hold(&p, pairA, 9999)
	first, _ := l.take(&p, pairA)
	second, err := l.take(&p, pairA)
	if err != nil || first == second {
		t.Fatalf("%d, %d, %v", first, second, err)
	}
	if taken := p.more[pairA.key()].few; len(taken) != 2 {
		t.Errorf("%v are taken, want the client's and the last", taken)
	}
	l.end(&p, pairA)
	l.end(&p, pairA) // idempotent
	if len(p.one)+len(p.more) != 0 {
		t.Error("something is left")
	}
}

// TestPortsAgainstMap gives out and takes back ports at random, the client's own
// among them, and compares with a map that knows what must be free. The number
// that is taken goes up and down through all forms of the set.
func TestPortsAgainstMap(t *testing.T) {
	const seed = 1
	r := rand.New(rand.NewPCG(seed, seed))
	var p ports
	held := map[uint16]int{}
	var all []uint16 // once for each time
	drop := func(i int) {
		port := all[i]
		all[i] = all[len(all)-1]
		all = all[:len(all)-1]
		if held[port]--; held[port] == 0 {
			delete(held, port)
		}
		p.release(pairA, port)
	}
	for _, goal := range []int{10, 40, 0, 20, 500, 12, 40, 2000, 0} {
		for len(all) != goal {
			switch up := len(all) < goal; {
			case up == (r.IntN(3) == 0) && len(all) > 0:
				drop(r.IntN(len(all)))
			case r.IntN(8) == 0:
				port := contract.SpoofPortLow + uint16(r.IntN(spoofPorts))
				if len(all) > 0 && r.IntN(2) == 0 {
					port = all[r.IntN(len(all))]
				}
				p.hold(pairA, port)
				held[port]++
				all = append(all, port)
			default:
				port, err := p.take(pairA)
				if err != nil || held[port] != 0 || !inRange(port) {
					t.Fatalf("%d are taken: got %d, taken %d times, %v", len(all), port, held[port], err)
				}
				held[port]++
				all = append(all, port)
			}
			if s := p.more[pairA.key()]; s != nil && s.many != nil && s.many.n != len(held) {
				t.Fatalf("%d bits for %d ports", s.many.n, len(held))
			}
		}
	}
	if len(p.one)+len(p.more) != 0 {
		t.Error("something is left")
	}
}

// TestPortsWhere: what is given out is the first that is free from the last one
// on, around the end of the range, whatever of the set is taken.
func TestPortsWhere(t *testing.T) {
	const last = spoofPorts - 1
	for _, tt := range []struct{ from, free int }{
		{0, 0}, {0, last}, {last, 0}, {last, last}, {63, 64}, {64, 63}, {65, 64}, {1000, 999}, {5, 20_000},
	} {
		var s portSet
		for o := range spoofPorts {
			if o != tt.free {
				s.add(o)
			}
		}
		if got, ok := s.free(tt.from); !ok || got != tt.free {
			t.Errorf("from %d: %d, %v, want %d", tt.from, got, ok, tt.free)
		}
		s.add(tt.free)
		if got, ok := s.free(tt.from); ok {
			t.Errorf("from %d: %d of none", tt.from, got)
		}
	}
}

// TestPortsMemory: a pair that had many ports and keeps one has the memory of one.
func TestPortsMemory(t *testing.T) {
	var p ports
	var all []uint16
	for range 10 * fewPorts {
		port, _ := p.take(pairA)
		all = append(all, port)
	}
	for _, port := range all[1:] {
		p.release(pairA, port)
	}
	if s := p.more[pairA.key()]; s != nil && s.many != nil || len(s.few) != 1 {
		t.Errorf("one port is %d in a list and %v", len(s.few), s.many != nil)
	}
}
