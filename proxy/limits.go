package main

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/adminhttp"
	"github.com/tproxy-cni/tproxy-cni/proxy/relay"
)

// reservedFiles is the descriptors that are not for connections: pipes, listeners,
// health checks. A limit below twice that is halved instead.
const reservedFiles = 2*relay.MaxPipes + adminhttp.Most + 32

// connsFor is how many connections a limit of descriptors allows: one that is
// accepted must also get the descriptor to dial the application.
func connsFor(files uint64) int {
	return int((files - min(reservedFiles, files/2)) / 2)
}

// raiseNoFile raises the soft limit of descriptors to the hard one and returns it.
// The Go runtime does so too, but only by default and only at start.
func raiseNoFile() (uint64, error) {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 0, os.NewSyscallError("getrlimit", err)
	}
	if r.Cur < r.Max {
		r.Cur = r.Max
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
			return 0, os.NewSyscallError("setrlimit", err)
		}
	}
	return r.Cur, nil
}
