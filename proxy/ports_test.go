package main

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

var (
	pairA = pair{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddrPort("192.0.2.2:80")}
	pairB = pair{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddrPort("192.0.2.2:81")}
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
	if len(p.taken) != 0 {
		t.Errorf("%d pairs are left", len(p.taken))
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
	p.hold(pairA, 7)
	p.hold(pairA, 7)
	p.release(pairA, 7)
	if p.taken[pairA.taken(7)] != 1 {
		t.Error("a port that is still held was given up")
	}
	p.release(pairA, 7)
	if len(p.taken) != 0 {
		t.Error("something is left")
	}
}

func TestLease(t *testing.T) {
	var p ports
	var l lease
	l.hold(&p, pairA, 40000) // not one of ours
	l.hold(&p, pairA, 9999)
	first, _ := l.take(&p, pairA)
	second, err := l.take(&p, pairA)
	if err != nil || first == second {
		t.Fatalf("%d, %d, %v", first, second, err)
	}
	if n := len(p.taken); n != 2 {
		t.Errorf("%d ports are taken, want the client's and the last", n)
	}
	l.end(&p, pairA)
	l.end(&p, pairA) // twice is as once
	if len(p.taken) != 0 {
		t.Error("something is left")
	}
}
