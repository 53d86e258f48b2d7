package integration

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// tailSize is how many bytes wait in the kernel when the connection ends.
const tailSize = 2 << 20

// TestTail: bytes sent before a connection's end arrive, however slow the receiver. The
// sidecar's socket is closed by then, and a closed socket has no uid: rules that matched
// it on every segment dropped the tail.
func TestTail(t *testing.T) {
	ends := []struct {
		name string
		// end ends the connection while the bytes are in the kernel.
		end func(t *testing.T, p *pod, sender, receiver *net.TCPConn)
	}{
		{"the sender closes", func(t *testing.T, p *pod, sender, receiver *net.TCPConn) {
			closeBoth(t, sender, receiver)
			p.sidecar.WaitLog("end=closed")
		}},
		{"the sidecar drains", func(t *testing.T, p *pod, sender, receiver *net.TCPConn) {
			closeBoth(t, sender, receiver)
			if err := p.sidecar.Stop(); err != nil {
				t.Errorf("the sidecar ended with %v", err)
			}
		}},
		{"the sidecar is killed", func(_ *testing.T, p *pod, _, _ *net.TCPConn) {
			p.sidecar.Kill()
		}},
		{"the sidecar is killed after the sender closed", func(t *testing.T, p *pod, sender, _ *net.TCPConn) {
			if err := sender.CloseWrite(); err != nil {
				t.Error(err)
			}
			p.sidecar.Kill()
		}},
	}
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		p.sidecar.Kill()
		// Send buffers in the pod that hold all of it from the start.
		p.Pod.Sysctl("net.ipv4.tcp_wmem", "4096 4194304 4194304")
		for _, e := range ends {
			for _, down := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, down %v", e.name, down), func(t *testing.T) {
					p.inFamilies(t, func(t *testing.T, f family) {
						p.start("--drain", "10m")
						defer p.sidecar.Kill()
						client, application := p.connect(t, f, 9000)
						sender, receiver := client, application
						if down {
							sender, receiver = application, client
						}
						data := make([]byte, tailSize)
						_, _ = rand.Read(data)
						if _, err := sender.Write(data); err != nil {
							t.Fatal(err)
						}
						p.waitRelayed(t, receiver, len(data))
						e.end(t, p, sender, receiver)
						if got, err := io.ReadAll(receiver); err != nil || !bytes.Equal(got, data) {
							t.Errorf("got %d bytes of %d and %v", len(got), len(data), err)
						}
					})
				})
			}
		}
	})
}

func closeBoth(t *testing.T, a, b *net.TCPConn) {
	t.Helper()
	for _, c := range []*net.TCPConn{a, b} {
		if err := c.CloseWrite(); err != nil {
			t.Error(err)
		}
	}
}

// waitRelayed waits until n bytes for the receiver are in the kernel: in its receive
// queue, or in the sidecar's send queue towards it.
func (p *pod) waitRelayed(t *testing.T, receiver *net.TCPConn, n int) {
	t.Helper()
	local := receiver.LocalAddr().(*net.TCPAddr).Port
	remote := receiver.RemoteAddr().(*net.TCPAddr).Port
	lab.Eventually(t, "bytes relayed", func() error {
		sum := 0
		for _, ns := range []*lab.NS{p.Pod, p.Client} {
			sockets, err := ns.Sockets()
			if err != nil {
				return err
			}
			for _, s := range sockets {
				if s.LocalPort == local && s.RemotePort == remote {
					sum += s.RecvQueue
				}
				// In nat mode the sender's own socket has the same ports.
				if s.RemotePort == local && s.UID == contract.ProxyUID {
					sum += s.SendQueue
				}
			}
		}
		if sum < n {
			return fmt.Errorf("%d of %d", sum, n)
		}
		return nil
	})
}

// connect makes a connection from the client to an application in the test itself.
func (p *pod) connect(t *testing.T, f family, port int) (client, application *net.TCPConn) {
	t.Helper()
	ln, err := p.Pod.Listen("tcp", addr(f.pod, port))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client = p.dial(t, f, port).(*net.TCPConn)
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	application = conn.(*net.TCPConn)
	for _, c := range []*net.TCPConn{client, application} {
		_ = c.SetDeadline(time.Now().Add(lab.Patience))
	}
	return client, application
}
