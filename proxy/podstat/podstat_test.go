package podstat

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// listener is a listener with a short queue, and its port. A second one on the same port
// shares it.
func listener(t *testing.T, at unix.Sockaddr, backlog int) uint16 {
	t.Helper()
	family := unix.AF_INET
	if _, six := at.(*unix.SockaddrInet6); six {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1), unix.Bind(fd, at), unix.Listen(fd, backlog),
	); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	if n, ok := name.(*unix.SockaddrInet6); ok {
		return uint16(n.Port)
	}
	return uint16(name.(*unix.SockaddrInet4).Port)
}

// queue is what Queues says of a port.
func queue(t *testing.T, port uint16) Queue {
	t.Helper()
	all, err := Queues(port, nil)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(q Queue) bool { return q.Port == port })
	if i < 0 {
		t.Fatalf("no port %d in %v", port, all)
	}
	return all[i]
}

// TestQueues: the kernel's queue of a listener that nobody accepts from, of each family,
// and of two listeners on one port the fuller.
func TestQueues(t *testing.T) {
	for _, c := range []struct {
		lo string
		at func(port int) unix.Sockaddr
	}{
		{"127.0.0.1", func(port int) unix.Sockaddr { return &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}} }},
		{"::1", func(port int) unix.Sockaddr { return &unix.SockaddrInet6{Port: port, Addr: [16]byte{15: 1}} }},
	} {
		port := listener(t, c.at(0), 7)
		if q := queue(t, port); q != (Queue{port, 0, 7}) {
			t.Errorf("%s: %+v", c.lo, q)
		}
		for range 3 {
			conn, err := net.Dial("tcp", net.JoinHostPort(c.lo, fmt.Sprint(port)))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
		}
		want := Queue{port, 3, 7}
		lab.Eventually(t, "the queue", func() error {
			if q := queue(t, port); q != want {
				return fmt.Errorf("%+v", q)
			}
			return nil
		})
		listener(t, c.at(int(port)), 100) // empty
		if q := queue(t, port); q != want {
			t.Errorf("%s: %+v, want %+v, of the fuller one", c.lo, q, want)
		}
	}
}

// TestManyListeners: the list is bounded, the sidecar's own port stays in it, and what is
// to be left out takes no place.
func TestManyListeners(t *testing.T) {
	qs := queues{own: 60_000, except: []uint16{2, 65_535}}
	for port := uint16(65_535); port > 0; port-- {
		qs.add(Queue{Port: port, Limit: 1})
	}
	if n := len(qs.list); n != MostQueues || qs.list[0].Port != 1 || qs.list[1].Port != 3 || qs.list[n-2].Port != MostQueues || qs.list[n-1].Port != 60_000 {
		t.Errorf("%d: %v", n, qs.list)
	}
}

// TestListenDrops compares with another reader of the file.
func TestListenDrops(t *testing.T) {
	p, err := procfs.Self()
	if err != nil {
		t.Fatal(err)
	}
	lab.Eventually(t, "two readings of the same state", func() error {
		got, err := ListenDrops()
		if err != nil {
			return err
		}
		want, err := p.Netstat()
		if err != nil {
			return err
		}
		if float64(got.Overflows) != *want.ListenOverflows || float64(got.Drops) != *want.ListenDrops {
			return fmt.Errorf("%+v, want %v and %v", got, *want.ListenOverflows, *want.ListenDrops)
		}
		return nil
	})
}

// TestProcess compares with another reader, and the two ways to count descriptors, of
// which kernels before 6.2 have only the second.
func TestProcess(t *testing.T) {
	got, err := ReadProcess()
	if err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	if int(got.Files) != len(files)-1 { // its own
		t.Errorf("%d files, want %d", got.Files, len(files)-1)
	}
	p, err := procfs.Self()
	if err != nil {
		t.Fatal(err)
	}
	stat, err := p.Stat()
	if err != nil {
		t.Fatal(err)
	}
	limits, err := p.Limits()
	if err != nil {
		t.Fatal(err)
	}
	start, err := stat.StartTime()
	if err != nil {
		t.Fatal(err)
	}
	near := func(what string, got, want, within float64) {
		t.Helper()
		if got < want-within || got > want+within {
			t.Errorf("%s %v, want %v", what, got, want)
		}
	}
	near("CPU", got.CPU.Seconds(), stat.CPUTime(), 1)
	near("resident", float64(got.Resident), float64(stat.ResidentMemory()), 8<<20)
	near("virtual", float64(got.Virtual), float64(stat.VirtualMemory()), 256<<20)
	near("limit", float64(got.FileLimit), float64(limits.OpenFiles), 0)
	near("start", float64(got.Started.UnixMilli())/1e3, start, 30)

	many := t.TempDir()
	const n = 1000 // several calls' worth
	for i := range n {
		if err := os.WriteFile(filepath.Join(many, fmt.Sprint(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.Open(many)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if got, err := entries(int(dir.Fd())); got != n || err != nil {
		t.Errorf("%d entries (%v), want %d", got, err, n)
	}
}

// BenchmarkRead is what a scrape asks of the kernel.
func BenchmarkRead(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if r := Read(5000, nil, false); r.Err != nil {
			b.Fatal(r.Err)
		}
	}
}
