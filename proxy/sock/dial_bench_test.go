package sock

import (
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/proxy/sys"
)

// BenchmarkDial is a connection to the application from a client's address and
// port, where bind takes the port and where connect does.
func BenchmarkDial(b *testing.B) {
	for _, kind := range []struct {
		name string
		late bool
	}{{"bound", false}, {"late", true}} {
		b.Run(kind.name, func(b *testing.B) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			fd, err := Detach(ln.(*net.TCPListener))
			if err != nil {
				b.Fatal(err)
			}
			defer sys.Close(fd)
			dst, err := sys.LocalAddr(fd)
			if err != nil {
				b.Fatal(err)
			}
			client := netip.MustParseAddr("127.0.0.2")
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			before := threadTime()
			for i := 0; b.Loop(); i++ {
				out, err := Dial(netip.AddrPortFrom(client, uint16(40_000+i%20_000)), dst, kind.late)
				if err != nil {
					b.Fatal(err)
				}
				if done, err := Connected(out, dst); !done || err != nil {
					b.Fatal(done, err)
				}
				in, _, err := sys.Accept(fd)
				if err != nil {
					b.Fatal(err)
				}
				sys.ResetOnClose(in) // no TIME_WAIT
				sys.Close(in)
				sys.Close(out)
			}
			b.ReportMetric(float64(threadTime()-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

// threadTime is the CPU time of this thread, which does not depend on other load.
func threadTime() time.Duration {
	var ru unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_THREAD, &ru)
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}
