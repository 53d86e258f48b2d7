package main

import (
	"fmt"
	"net/netip"
	"testing"
)

func clientNumber(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
}

// TestSources: which sources get reserved places, and how many.
func TestSources(t *testing.T) {
	const reserved = 618
	// take takes what a client gets of left places, which become fewer.
	take := func(s *sources, client netip.Addr, left int64) (n int64) {
		for ; n < left; n++ {
			if _, ok := s.enter(client, false, left-n); !ok {
				return n
			}
		}
		return n
	}
	t.Run("a source that has filled the rest gets none, others share what is left", func(t *testing.T) {
		var s sources
		for range 9000 {
			s.enter(clientNumber(0), true, 0)
		}
		left, others := int64(reserved), 0
		for ; left > 0; others++ {
			if n := take(&s, clientNumber(0), left); n != 0 {
				t.Fatalf("the first got %d more of %d", n, left)
			}
			n := take(&s, clientNumber(1+others), left)
			if n == 0 || n > max(1, left/reservedShare) {
				t.Fatalf("source %d got %d of %d", 1+others, n, left)
			}
			left -= n
		}
		if others < 60 {
			t.Errorf("%d sources have filled the reserved places", others)
		}
	})
	t.Run("a source with more than its part gets none", func(t *testing.T) {
		var s sources
		for range 2 {
			s.enter(clientNumber(0), true, 0)
		}
		if n := take(&s, clientNumber(0), 2*reservedShare); n != 0 {
			t.Errorf("a source with two got %d", n)
		}
		if n := take(&s, clientNumber(1), 1); n != 1 {
			t.Errorf("a new one got %d", n)
		}
	})
	t.Run("one /64 is one source", func(t *testing.T) {
		var s sources
		for i := range 700 {
			s.enter(netip.AddrFrom16([16]byte{0: 0xfd, 14: byte(i >> 8), 15: byte(i)}), true, 0)
		}
		if n := take(&s, netip.MustParseAddr("fd00::ffff:1"), reserved); n != 0 {
			t.Errorf("%d", n)
		}
		if n := take(&s, netip.MustParseAddr("fd00:0:0:1::1"), reserved); n == 0 {
			t.Error("another got none")
		}
	})
	t.Run("nothing is left", func(t *testing.T) {
		var s sources
		for range 2 {
			for i := range 2 * manySources {
				s.enter(clientNumber(i/2), true, 0)
			}
			for i := range 2 * manySources {
				s.leave(clientNumber(i / 2))
			}
			if s.held != nil {
				t.Errorf("%d sources are left", len(s.held))
			}
		}
	})
}

// BenchmarkSources is what a connection costs in it.
func BenchmarkSources(b *testing.B) {
	for _, n := range []int{1, 1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var s sources
			for i := range n {
				s.enter(clientNumber(i), true, 0)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				client := clientNumber(i % n)
				s.enter(client, true, 0)
				s.leave(client)
			}
		})
	}
}
