package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestHandOverBeginning: a connection that is being dialled, one whose PROXY header has
// not come, and one on the unix socket go on where they were.
func TestHandOverBeginning(t *testing.T) {
	for _, mode := range []string{contract.ModeNAT, contract.ModeTProxy} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			p := prepared(t, mode)
			front := frontPath(t, contract.ProxyUID, contract.ProxyUID)
			p.start("--drain", "0s", "--proxy-protocol-from", lab.OtherClient4+"/32", "--accept-proxy", "unix:"+front)
			p.waitReady()
			a := p.listen(t, 0)

			// A queue of one, taken by a connection of the pod itself.
			full := p.listen(t, 0)
			raw, err := full.Listener.(*net.TCPListener).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			if err := raw.Control(func(fd uintptr) { _ = unix.Listen(int(fd), 0) }); err != nil {
				t.Fatal(err)
			}
			if _, err := p.Pod.Dial("tcp", "", addr(ip4.lo, full.port)); err != nil {
				t.Fatal(err)
			}
			dialled := p.dial(t, ip4, full.port)
			headed := p.dialFrom(t, lab.OtherClient4, ip4, a.port)
			header := "PROXY TCP4 203.0.113.7 192.0.2.1 4321 80\r\n"
			if _, err := io.WriteString(headed, header[:20]); err != nil {
				t.Fatal(err)
			}
			fronted := p.front(t, contract.ProxyUID, front)
			send(t, fronted, "PROXY TCP4 203.0.113.8")
			lab.Eventually(t, "all are accepted", func() error {
				if _, body := p.admin("/readyz"); !strings.Contains(body, "connections: 3 of") {
					return errors.New(body)
				}
				return nil
			})

			p.handOver(t)
			p.handOver(t)

			if _, err := io.WriteString(headed, header[20:]+"hello"); err != nil {
				t.Fatal(err)
			}
			application := a.accept(t)
			if from := application.RemoteAddr().String(); from != "203.0.113.7:4321" {
				t.Errorf("the application sees %s", from)
			}
			say(t, application, headed, "hello, too")
			send(t, fronted, fmt.Sprintf(" 192.0.2.1 4322 %d\r\n", a.port))
			if from := a.accept(t).RemoteAddr().String(); from != "203.0.113.8:4322" {
				t.Errorf("the application sees %s", from)
			}
			full.accept(t).Close()
			application = full.accept(t)
			say(t, dialled, application, "at last")
			p.wantSource(t, dialled, application)

			if _, err := os.Stat(front); err != nil {
				t.Error(err)
			}
			if err := p.sidecar.Stop(); err != nil {
				t.Errorf("ended with %v", err)
			}
			if _, err := os.Stat(front); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the socket is still there: %v", err)
			}
		})
	}
}
