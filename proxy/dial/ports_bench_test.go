package dial

import (
	"fmt"
	"net/netip"
	"testing"
)

// BenchmarkTake is a connection's way to a port and back, by how many the pair
// has already.
func BenchmarkTake(b *testing.B) {
	for _, n := range []int{0, 1, 31, 1000, spoofPorts - 1, spoofPorts} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var p ports
			for range n {
				if _, err := p.take(pairA); err != nil {
					b.Fatal(err)
				}
			}
			for b.Loop() {
				if port, err := p.take(pairA); err == nil {
					p.release(pairA, port)
				}
			}
		})
	}
}

// BenchmarkPairs is what a pair with one connection costs in memory.
func BenchmarkPairs(b *testing.B) {
	const n = 10_000
	b.ReportAllocs()
	for b.Loop() {
		var p ports
		for i := range n {
			client := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
			if _, err := p.take(Pair{client, pairA.Dst}); err != nil {
				b.Fatal(err)
			}
		}
	}
}
