package intercept

import (
	"net/netip"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// CONTRIBUTING.md says how to compare two versions by these.

// inEachMode runs a benchmark in a pod of its own for each mode.
func inEachMode(b *testing.B, f func(b *testing.B, path string, c Config)) {
	for _, mode := range []contract.Mode{contract.ModeNAT, contract.ModeTProxy} {
		b.Run(string(mode), func(b *testing.B) {
			b.ReportAllocs()
			f(b, newPod(b).Path(), usual(b, mode))
		})
	}
}

// must ends the benchmark on an error.
func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// BenchmarkApply is what ADD does to a pod.
func BenchmarkApply(b *testing.B) {
	inEachMode(b, func(b *testing.B, path string, c Config) {
		for b.Loop() {
			must(b, Apply(path, c))
			b.StopTimer()
			must(b, Remove(path, c.Interface))
			b.StartTimer()
		}
	})
}

// BenchmarkApplyAgain is what a repair does to a pod that needs none.
func BenchmarkApplyAgain(b *testing.B) {
	inEachMode(b, func(b *testing.B, path string, c Config) {
		must(b, Apply(path, c))
		for b.Loop() {
			must(b, Apply(path, c))
		}
	})
}

// BenchmarkOthers is what an ADD does besides Apply, in a pod without other software's
// rules.
func BenchmarkOthers(b *testing.B) {
	inEachMode(b, func(b *testing.B, path string, c Config) {
		must(b, Apply(path, c))
		for b.Loop() {
			_, err := Others(path, c)
			must(b, err)
		}
	})
}

// BenchmarkCheck is what CHECK does: it programs a scratch namespace, too.
func BenchmarkCheck(b *testing.B) {
	inEachMode(b, func(b *testing.B, path string, c Config) {
		must(b, Apply(path, c))
		required := []netip.Addr{netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("fd00:1::2")}
		for b.Loop() {
			must(b, Check(path, c, required))
		}
	})
}

// BenchmarkRemove is what DEL does to a pod.
func BenchmarkRemove(b *testing.B) {
	inEachMode(b, func(b *testing.B, path string, c Config) {
		for b.Loop() {
			b.StopTimer()
			must(b, Apply(path, c))
			b.StartTimer()
			must(b, Remove(path, c.Interface))
		}
	})
}

// BenchmarkChecker is what the installer's look at a pod costs.
func BenchmarkChecker(b *testing.B) {
	inEachMode(b, func(b *testing.B, path string, c Config) {
		must(b, Apply(path, c))
		required := []netip.Addr{netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("fd00:1::2")}
		var k Checker
		var seen Seen
		for b.Loop() {
			must(b, k.CheckAgain(b.Context(), path, c, required, &seen))
		}
	})
}
