package sock

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/proxy/sys"
)

// TestInherit: only a listener of TCP is taken over, in tproxy mode only a transparent
// one, and it gets the options of one that the sidecar opens itself.
func TestInherit(t *testing.T) {
	socket := func(family, kind, protocol int) int {
		fd, err := unix.Socket(family, kind, protocol)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	listening := func(fd int) int {
		if err := unix.Listen(fd, 1); err != nil { // on a port of the kernel's choice
			t.Fatal(err)
		}
		return fd
	}
	var pipe [2]int
	if err := unix.Pipe(pipe[:]); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[1])
	for _, c := range []struct {
		name        string
		fd          int
		transparent bool
		want        string // nothing: it is taken
	}{
		{"a listener", listening(socket(unix.AF_INET, unix.SOCK_STREAM, 0)), false, ""},
		{"one of IPv6", listening(socket(unix.AF_INET6, unix.SOCK_STREAM, 0)), false, ""},
		{"not transparent", listening(socket(unix.AF_INET6, unix.SOCK_STREAM, 0)), true, "lacks IP_TRANSPARENT"},
		{"not listening", socket(unix.AF_INET, unix.SOCK_STREAM, 0), false, "is no listener of TCP"},
		{"UDP", socket(unix.AF_INET, unix.SOCK_DGRAM, 0), false, "is no listener of TCP"},
		{"a unix socket", socket(unix.AF_UNIX, unix.SOCK_STREAM, 0), false, "is no listener of TCP"},
		{"a pipe", pipe[0], false, "socket operation on non-socket"},
		{"nothing", 1 << 20, false, "bad file descriptor"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ln, err := Inherit(c.fd, c.transparent)
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("got %v, want %s", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			fd, err := Detach(ln)
			if err != nil {
				t.Fatal(err)
			}
			defer sys.Close(fd)
			for _, o := range []struct{ level, option, want int }{{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 30}, {unix.IPPROTO_TCP, unix.TCP_NODELAY, 1}} {
				if got, err := sys.GetInt(fd, o.level, o.option); err != nil || got != o.want {
					t.Errorf("option %d is %d, %v, want %d", o.option, got, err, o.want)
				}
			}
			if _, _, err := sys.Accept(fd); err != unix.EAGAIN {
				t.Errorf("accept: %v; want it not to wait", err)
			}
		})
	}
}
