package sock

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/proxy/sys"
)

// receiveWindow bounds what the kernel keeps of what the application sends while
// the client does not read. Without the bound it grows to tcp_rmem's limit, 32 MiB
// since Linux 6.16, on a path without latency. The kernel takes twice as much, its
// own overhead included.
const receiveWindow = 512 << 10

// LimitReceive stops the kernel from growing a socket's receive buffer.
func LimitReceive(fd int) { _ = sys.SetInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveWindow) }

// LimitsReceive reports whether LimitReceive makes the buffer smaller and
// net.core.rmem_max allows its size. Before Linux 6.16 that is 208 KiB, too small
// for bulk data, and tcp_rmem's limit is 6 MiB.
func LimitsReceive() bool {
	var most int
	text, _ := os.ReadFile("/proc/sys/net/ipv4/tcp_rmem")
	if n, err := fmt.Sscan(string(text), new(int), new(int), &most); n < 3 || err != nil || most <= 2*receiveWindow {
		return false
	}
	fd, err := sys.Socket(false)
	if err != nil {
		return false
	}
	defer sys.Close(fd)
	LimitReceive(fd)
	n, err := sys.GetInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	return err == nil && n >= 2*receiveWindow
}
