package integration

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// way is a client's address and port, and where it connects to.
type way struct{ from, to string }

// moments are the states in which a connection can be when the sidecar dies. Each
// returns what the client does next, whose error must be a refusal.
var moments = []struct {
	name  string
	wild  bool // only where the application listens on every address: see the threat model
	begin func(t *testing.T, p *pod, w way) (after func() error)
}{
	{"in TIME_WAIT", false, func(t *testing.T, p *pod, w way) func() error {
		conn := p.dialWay(t, w)
		if _, err := ask(conn); err != nil { // nginx ends it
			t.Fatal(err)
		}
		conn.Close()
		p.waitState(t, "time-wait", w)
		return func() error { return p.again(w) }
	}},
	{"established", false, func(t *testing.T, p *pod, w way) func() error {
		conn := p.dialWay(t, w)
		p.waitState(t, "established", w)
		return func() error {
			conn.Close()
			return p.again(w)
		}
	}},
	{"half open", false, func(t *testing.T, p *pod, w way) func() error {
		p.hush(w, "in", "tcp sport . tcp dport", "tcp flags & (syn | ack) == syn | ack")
		done := make(chan error)
		go func() { done <- p.again(w) }()
		p.waitState(t, "syn-recv", w)
		return func() error { return <-done } // the client's kernel sends its SYN again
	}},
	{"answered with a SYN cookie", true, func(t *testing.T, p *pod, w way) func() error {
		p.Pod.Sysctl("net.ipv4.tcp_syncookies", "2")
		p.wantExactAt(t, host(w.from), w.to) // so the application's listener has sent one, too
		p.hush(w, "out", "tcp dport . tcp sport", "tcp flags & syn == 0")
		conn := p.dialWay(t, w)
		if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		return func() error {
			answer, err := io.ReadAll(conn) // the client's kernel sends the request again
			if err == nil {
				err = fmt.Errorf("served: %q", answer)
			}
			return err
		}
	}},
}

// TestDeadSidecar: in whatever state a connection is when the sidecar is killed, neither
// it nor the next one from its port reaches the application.
func TestDeadSidecar(t *testing.T) {
	inModes(t, setup{bare: true}, func(t *testing.T, p *pod) {
		d, _ := p.nginx(t, addr("0.0.0.0", webPort), addr("::", webPort), addr(v4.pod, podPort), addr(v6.pod, podPort))
		p.Client.Run("nft", "add table inet hush")
		port := 42_000
		for _, m := range moments {
			p.start()
			var after []func() error
			var ways []way
			for _, f := range p.fams() {
				for _, to := range []int{webPort, podPort} {
					if to == podPort && m.wild {
						continue
					}
					p.wantExactAt(t, f.client, addr(f.pod, to))
					port++
					w := way{addr(f.client, port), addr(f.pod, to)}
					ways, after = append(ways, w), append(after, m.begin(t, p, w))
				}
			}
			p.sidecar.Kill()
			before := accessLog(t, d)
			p.Client.Run("nft", "flush table inet hush")
			for i, do := range after {
				if err := do(); !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ECONNRESET) {
					t.Errorf("%s, %s: %v, want a refusal", m.name, ways[i].from, err)
				}
			}
			if got := accessLog(t, d); got != before {
				t.Errorf("%s: the application served\n%s", m.name, strings.TrimPrefix(got, before))
			}
			p.Pod.Sysctl("net.ipv4.tcp_syncookies", "1")
		}
	})
}

func (p *pod) dialWay(t *testing.T, w way) net.Conn {
	t.Helper()
	conn, err := p.Client.Dial("tcp", w.from, w.to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(lab.Patience)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// again connects from the same port, as soon as its last connection is gone, and
// returns the error.
func (p *pod) again(w way) error {
	conn, err := p.Client.Dial("tcp", w.from, w.to)
	for deadline := time.Now().Add(lab.Patience); errors.Is(err, unix.EADDRINUSE) && time.Now().Before(deadline); {
		conn, err = p.Client.Dial("tcp", w.from, w.to)
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(lab.Patience)); err != nil {
		return err
	}
	saw, err := ask(conn)
	if err == nil {
		err = fmt.Errorf("served, and seen as %s", saw)
	}
	return err
}

// hush makes the client drop matching packets between its port and the pod's, until
// the table is flushed.
func (p *pod) hush(w way, chain, ports, match string) {
	_, to, _ := net.SplitHostPort(w.to)
	_, from, _ := net.SplitHostPort(w.from)
	p.Client.Run("nft", fmt.Sprintf("add chain inet hush %s { type filter hook %sput priority 0; }; add rule inet hush %[1]s %[3]s { %s . %s } %s drop",
		chain, chain, ports, to, from, match))
}

// waitState waits until the sidecar's socket for a client is in a state.
func (p *pod) waitState(t *testing.T, state string, w way) {
	t.Helper()
	lab.Eventually(t, w.from+" is "+state, func() error {
		out := p.Pod.Run("ss", "-Htan", "state", state)
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) > 3 && unmapped(f[3]) == w.from {
				return nil
			}
		}
		return errors.New(out)
	})
}

// unmapped turns ss' [::ffff:192.0.2.1]:80 into 192.0.2.1:80.
func unmapped(peer string) string {
	if rest, ok := strings.CutPrefix(peer, "[::ffff:"); ok {
		return strings.Replace(rest, "]", "", 1)
	}
	return peer
}

func host(hostport string) string {
	h, _, _ := net.SplitHostPort(hostport)
	return h
}

func accessLog(t *testing.T, dir string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "access.log"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestTransparentApplication: an application with a transparent listener, as HAProxy
// has, cannot be reached while the sidecar is down, wherever it listens.
func TestTransparentApplication(t *testing.T) {
	inModes(t, setup{bare: true}, func(t *testing.T, p *pod) {
		p.transparent(t, 8090, "0.0.0.0:8090", ":::8090")
		p.transparent(t, 8091, v4.pod+":8091", v6.pod+":8091")
		for _, f := range p.fams() {
			for _, port := range []int{8090, 8091} {
				wantRefused(t, end{p.Client, f.client}, addr(f.pod, port))
			}
		}
	})
}

// TestUsurper: another process that listens on the sidecar's port while the sidecar is
// down gets no client; clients are refused.
func TestUsurper(t *testing.T) {
	inModes(t, setup{bare: true}, func(t *testing.T, p *pod) {
		p.nginx(t)
		if p.mode == contract.ModeTProxy {
			p.transparent(t, contract.ProxyPort, fmt.Sprintf("0.0.0.0:%d", contract.ProxyPort), fmt.Sprintf(":::%d", contract.ProxyPort))
			for _, f := range p.fams() {
				wantRefused(t, end{p.Client, f.client}, addr(f.pod, webPort))
			}
			return
		}
		usurper, _ := p.nginx(t, addr("0.0.0.0", contract.ProxyPort), addr("::", contract.ProxyPort))
		for i, f := range p.fams() {
			w := way{addr(f.client, 43_000+i), addr(f.pod, webPort)}
			if err := p.again(w); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("%s: %v, want a refusal", f.name, err)
			}
		}
		if got := accessLog(t, usurper); got != "" {
			t.Errorf("the usurper served\n%s", got)
		}
	})
}

// transparent starts HAProxy as root with NET_RAW; it answers every request.
func (p *pod) transparent(t *testing.T, port int, binds ...string) {
	t.Helper()
	lab.Need(t, "haproxy")
	text := "defaults\n\tmode http\n\ttimeout client 60s\nfrontend f\n"
	for _, b := range binds {
		text += "\tbind " + b + " transparent"
		if strings.HasPrefix(b, ":::") {
			text += " v6only"
		}
		text += "\n"
	}
	text += "\thttp-request return status 200 content-type text/plain string past\n"
	conf := write(t, filepath.Join(dir(t, 0), "haproxy.cfg"), text)
	p.Pod.StartAs(containerRoot(t), "haproxy", "-db", "-f", conf).WaitListen(port)
}
