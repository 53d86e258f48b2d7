package integration

import (
	"net"
	"testing"
)

// TestReturningClient: a client that lost power while closing a connection connects again
// from the same port while the sidecar's closed socket still waits for the last ACK. It
// is served, as it would be without interception.
func TestReturningClient(t *testing.T) {
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		p.nginx(t)
		p.Client.Run("nft", "add table inet hush")
		for i, f := range p.fams() {
			w := way{addr(f.client, 46_000+i), addr(f.pod, webPort)}
			conn := p.dialWay(t, w).(*net.TCPConn)
			p.waitState(t, "established", w)
			p.hush(w, "in", "tcp sport . tcp dport", "tcp flags & ack == ack")
			if err := conn.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			p.waitState(t, "last-ack", w)
			vanish(t, conn)
			p.Client.Run("nft", "flush table inet hush")
			again := p.dialAgain(t, w)
			if again == nil {
				continue
			}
			saw, err := ask(again)
			if err != nil {
				t.Errorf("%s: %v", f.name, err)
				continue
			}
			p.wantSeen(t, saw, w.from)
		}
	})
}

// dialAgain connects, or returns why not.
func (p *pod) dialAgain(t *testing.T, w way) net.Conn {
	t.Helper()
	conn, err := p.Client.Dial("tcp", w.from, w.to)
	if err != nil {
		t.Errorf("the client is back: %v", err)
		return nil
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}
