package integration

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// capture has the frames that leave a pod, captured at the other end of its veth.
type capture struct {
	mu     sync.Mutex
	frames [][]byte
}

// newCapture captures what arrives at a link of a namespace until the test ends.
func newCapture(t *testing.T, ns *lab.NS, link string) *capture {
	t.Helper()
	c := &capture{}
	var fd int
	err := ns.Do(func() (err error) {
		fd, err = packetSocket(link)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	done, stopped := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() {
		close(done)
		<-stopped
		unix.Close(fd)
	})
	go func() {
		defer close(stopped)
		c.read(fd, done)
	}()
	return c
}

func packetSocket(link string) (int, error) {
	i, err := net.InterfaceByName(link)
	if err != nil {
		return -1, err
	}
	all := swap16(unix.ETH_P_ALL)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all))
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	// How often the reader checks done.
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}); err != nil {
		return -1, os.NewSyscallError("setsockopt SO_RCVTIMEO", err)
	}
	return fd, os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index}))
}

func (c *capture) read(fd int, done <-chan struct{}) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := unix.Recvfrom(fd, buf, 0)
		select {
		case <-done:
			return
		default:
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); err != nil || ok && ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		c.mu.Lock()
		c.frames = append(c.frames, bytes.Clone(buf[:n]))
		c.mu.Unlock()
	}
}

// with returns the first frame that contains the bytes.
func (c *capture) with(part []byte) []byte {
	return c.first(func(frame []byte) bool { return bytes.Contains(frame, part) })
}

// first returns the first frame that is meant, nil if none is.
func (c *capture) first(meant func(frame []byte) bool) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.frames {
		if meant(f) {
			return f
		}
	}
	return nil
}

// wait waits until a frame with the bytes has been captured.
func (c *capture) wait(t *testing.T, part []byte) {
	t.Helper()
	lab.Eventually(t, fmt.Sprintf("capture of %q", part), func() error {
		if c.with(part) == nil {
			return fmt.Errorf("not in %d frames", len(c.frames))
		}
		return nil
	})
}
