package integration

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// TestLastWord: one side sends some last bytes to the other, which is still sending, and
// closes. Unread data makes that close a reset, but the bytes before it arrive.
func TestLastWord(t *testing.T) {
	lab.Need(t, "socat")
	times := lab.Count(30) + 3
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		const deaf = 9002
		p.Pod.StartAs(app, "socat", "-U", fmt.Sprintf("TCP6-LISTEN:%d,ipv6only=0,fork,reuseaddr", deaf), "SYSTEM:echo enough").WaitListen(deaf)
		p.inFamilies(t, func(t *testing.T, f family) {
			for range times {
				conn := p.dial(t, f, deaf)
				_ = conn.SetDeadline(time.Now().Add(lab.Patience))
				wantHeard(t, conn, "enough\n", func() {})
			}
			for range times {
				client, application := p.connect(t, f, 9000)
				wantHeard(t, application, "enough\n", func() {
					// There is more to read.
					_, err := client.Read(make([]byte, 1))
					if err == nil {
						_, err = io.WriteString(client, "enough\n")
					}
					if err != nil {
						t.Error(err)
					}
					client.Close()
				})
			}
		})
	})
}

// wantHeard writes until that fails, and checks that it receives the last bytes.
func wantHeard(t *testing.T, conn net.Conn, word string, say func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			if _, err := conn.Write(make([]byte, 1<<16)); err != nil {
				return // the reset
			}
		}
	}()
	say()
	if heard, err := io.ReadAll(conn); string(heard) != word {
		t.Errorf("%s received %q (%v)", conn.LocalAddr(), heard, err)
	}
	<-done
}
