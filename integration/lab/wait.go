package lab

import (
	"time"

	"github.com/prometheus/procfs"
)

// Patience bounds every wait on a state. It is generous: a test that passes does
// not use it up, and a busy machine should not fail one.
var Patience = limit(30 * time.Second)

// Eventually polls until check returns nil; the test ends when that takes
// longer than [Patience]. It polls for a quarter of the time at most: on a slow
// computer, what is waited for would otherwise get little of the processor.
func Eventually(t TB, what string, check func() error) {
	t.Helper()
	for deadline := time.Now().Add(Patience); ; {
		begin := time.Now()
		err := check()
		pause := min(3*time.Since(begin), limit(50*time.Millisecond))
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after %v: %v", what, Patience, err)
		}
		time.Sleep(max(5*time.Millisecond, pause))
	}
}

// Sockets lists the namespace's TCP sockets of both families, from /proc/net/tcp and
// tcp6.
func (ns *NS) Sockets() (all []Socket, err error) {
	err = ns.Do(func() error {
		fs, err := procfs.NewFS("/proc/thread-self")
		if err != nil {
			return err
		}
		for _, read := range []func() (procfs.NetTCP, error){fs.NetTCP, fs.NetTCP6} {
			lines, err := read()
			if err != nil {
				return err
			}
			for _, l := range lines {
				all = append(all, Socket{int(l.LocalPort), int(l.RemPort), int(l.St), int(l.TxQueue), int(l.RxQueue), int(l.UID)})
			}
		}
		return nil
	})
	return all, err
}

// Socket is a line of /proc/net/tcp.
type Socket struct {
	LocalPort, RemotePort int
	State                 int // as in the kernel's tcp_states.h: 1 established, 10 listening
	SendQueue, RecvQueue  int // bytes
	UID                   int // 0 also for closed sockets
}

// Listening reports whether there is a TCP listener on the port.
func (ns *NS) Listening(port int) (bool, error) {
	const listen = 10
	all, err := ns.Sockets()
	for _, s := range all {
		if s.State == listen && s.LocalPort == port {
			return true, nil
		}
	}
	return false, err
}
