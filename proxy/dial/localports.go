package dial

import (
	"fmt"
	"os"
	"sync/atomic"
)

// localPorts is the range from which the kernel picks a port for a program in the
// pod that dials without one (ip_local_port_range).
//
// A port that bind(2) has taken is not picked for anyone, whatever the address and
// the destination, until the last such connection has left TIME_WAIT: binding the
// clients' ports would use up the pod's own, all 28,000 at 470 new connections a
// second. A port that connect(2) has picked is shared by all connections that differ
// in their two ends. So within this range we let connect pick, from a range of one
// port. Outside of it connect cannot (the kernel intersects a socket's range with
// this one), and bind takes nothing away.
//
// The zero value is an empty range, and stays one before Linux 6.3, where a socket
// has no range of its own.
type localPorts struct {
	late   bool          // the kernel has IP_LOCAL_PORT_RANGE
	bounds atomic.Uint32 // the lowest port, and the highest in the upper half
}

const localPortRange = "/proc/sys/net/ipv4/ip_local_port_range" // of both families

// refresh reads the range, which may be changed in the pod.
func (l *localPorts) refresh() {
	if !l.late {
		return
	}
	var low, high uint16
	if text, err := os.ReadFile(localPortRange); err == nil {
		_, _ = fmt.Sscan(string(text), &low, &high)
	}
	l.bounds.Store(uint32(high)<<16 | uint32(low))
}

// has reports whether a port is in the range. Port 0 never is.
func (l *localPorts) has(port uint16) bool {
	r := l.bounds.Load()
	return port != 0 && uint16(r) <= port && port <= uint16(r>>16)
}
