package lab

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// Patience bounds every wait on a state. It is generous: a test that passes
// does not wait for it, and a loaded machine is no failure.
var Patience = limit(30 * time.Second)

// Eventually polls until check returns nil; the test ends when that takes
// longer than [Patience].
func Eventually(t TB, what string, check func() error) {
	t.Helper()
	for deadline := time.Now().Add(Patience); ; time.Sleep(5 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after %v: %v", what, Patience, err)
		}
	}
}

// Sockets lists the namespace's TCP sockets of both families as the kernel
// tells them in /proc/net/tcp.
func (ns *NS) Sockets() ([]Socket, error) {
	var all []Socket
	err := ns.Do(func() error {
		for _, file := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			for _, line := range strings.Split(string(text), "\n") {
				var s Socket
				var local, remote string
				n, _ := fmt.Sscanf(line, "%s %s %s %x %x:%x %s %s %d",
					new(string), &local, &remote, &s.State, &s.SendQueue, &s.RecvQueue, new(string), new(string), &s.UID)
				if n == 9 {
					fmt.Sscanf(local[strings.IndexByte(local, ':'):], ":%X", &s.LocalPort)
					fmt.Sscanf(remote[strings.IndexByte(remote, ':'):], ":%X", &s.RemotePort)
					all = append(all, s)
				}
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
	UID                   int // 0 also for sockets that no process holds any more
}

// Listening tells whether there is a TCP listener on the port.
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
