package integration

import (
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// Outcomes of a client's connection to a port of the pod.
const (
	relayed = "relayed"
	direct  = "direct"
	refused = "refused"
)

// settled is a pod with annotations, and the outcome of each connection.
type settled struct {
	*pod
	knocks int // connections from ports of their own
}

// TestSettings: the annotations' settings take effect on traffic, with the sidecar up and
// down, at the bounds of ports and uids.
func TestSettings(t *testing.T) {
	const proxyPort, adminPort, uid = 65535, 65534, 4294967294
	inBothModes(t, func(t *testing.T, mode string) {
		p := &settled{pod: newPod(t, setup{mode: mode, bare: true, annotations: map[string]string{
			"proxy-port": "65535", "admin-port": "65534", "proxy-uid": "4294967294",
			"include-inbound-ports": "8080-8089,8085-8099,9000", "exclude-inbound-ports": "8082-8083,9000-9100",
			"exclude-source-cidrs": v4.other + "/32," + v6.other + "/128,192.0.2.0/24,192.0.0.0/16,2001:db8::/32",
		}})}
		user := lab.User{UID: uid, NoNewPrivs: true}
		if mode == contract.ModeTProxy {
			user.Caps = []string{"net_raw"}
		}
		p.sidecar = p.Pod.StartAs(user, bin(t, "tproxy-proxy"), "--mode", mode, "--log-level", "debug",
			"--addr", addr("0.0.0.0", proxyPort), "--admin", addr("0.0.0.0", adminPort)).WaitLog("ready: the plugin")
		var listen []string
		for _, port := range []int{8080, 8082, 8083, 8099, 8100, 9000, contract.ProxyPort} {
			listen = append(listen, addr("0.0.0.0", port), addr("::", port))
		}
		p.nginx(t, listen...)

		// By port: the outcomes of the client, of an excluded one, and of the
		// client without the sidecar.
		for port, want := range map[int][3]string{
			8080:               {relayed, direct, refused},
			8082:               {direct, direct, direct}, // excluded in the range of include
			8083:               {direct, direct, direct},
			8099:               {relayed, direct, refused}, // the end of ranges that overlap
			8100:               {direct, direct, direct},   // not included
			9000:               {direct, direct, direct},   // exclude wins
			contract.ProxyPort: {direct, direct, direct},   // a port like others here
			8098:               {refused, refused, refused},
			proxyPort:          {refused, refused, refused}, // no relay to itself
		} {
			for _, f := range p.fams() {
				for i, from := range []string{f.client, f.other} {
					if got := p.fares(t, from, addr(f.pod, port)); got != want[i] {
						t.Errorf("%s to %s: %s, want %s", from, addr(f.pod, port), got, want[i])
					}
				}
			}
		}
		p.sidecar.Kill()
		for port, want := range map[int]string{8080: refused, 8082: direct, 8100: direct} {
			for _, f := range p.fams() {
				if got := p.fares(t, f.client, addr(f.pod, port)); got != want {
					t.Errorf("without the sidecar to %s: %s, want %s", addr(f.pod, port), got, want)
				}
			}
		}
	})
}

// fares makes one request and returns its outcome; the sidecar's log shows whether it
// was intercepted.
func (p *settled) fares(t *testing.T, from, to string) string {
	t.Helper()
	conn, err := p.Client.Dial("tcp", from, to)
	// The sidecar resets what it has accepted: before connect returns, or after.
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ECONNRESET) {
		return refused
	}
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(lab.Patience))
	saw, err := ask(conn)
	switch me := conn.LocalAddr().String(); {
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		return refused
	case err != nil:
		return err.Error()
	case !p.same(saw, me):
		return "seen as " + saw
	case p.accepted(t, me):
		return relayed
	}
	return direct
}

// accepted reports whether the sidecar's log has a client. A connection to the sidecar's
// own port is logged after it, so that the log is complete.
func (p *settled) accepted(t *testing.T, client string) bool {
	t.Helper()
	select {
	case <-p.sidecar.Done():
	default:
		p.knocks++
		me := addr(v4.client, 10_000+p.knocks)
		if conn, err := p.Client.Dial("tcp", me, addr(v4.pod, atoi(t, p.annotations["proxy-port"]))); err == nil {
			conn.Close()
		}
		p.sidecar.WaitLog("accepted client=" + me)
	}
	return strings.Contains(p.sidecar.Output(), "accepted client="+client+" ")
}

// TestRunning: connections from before ADD, in and out, go on, and those through the
// sidecar go on after a second ADD.
func TestRunning(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode string) {
		p := prepare(t, setup{bare: true})
		p.add() // without a mode: the chain's own work
		p.mode = mode
		var pairs [][2]net.Conn
		for _, f := range p.fams() {
			client, application := p.connect(t, f, 9000)
			pairs = append(pairs, [2]net.Conn{client, application})
			there, err := p.Client.Listen("tcp", addr(f.client, 0))
			if err != nil {
				t.Fatal(err)
			}
			defer there.Close()
			out, err := p.Pod.Dial("tcp", f.pod, there.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			in, err := acceptFrom(there)
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			pairs = append(pairs, [2]net.Conn{out, in})
		}
		wantRun := func(when string) {
			t.Helper()
			for i, pair := range pairs {
				for way := range 2 {
					if err := tell(pair[way], pair[1-way]); err != nil {
						t.Fatalf("%s: connection %d: %v", when, i, err)
					}
				}
			}
		}
		wantRun("before ADD")
		p.ours(t, "ADD")
		wantRun("after ADD")
		p.start()
		for _, f := range p.fams() {
			client, application := p.connect(t, f, 9000)
			p.wantSeen(t, application.RemoteAddr().String(), client.LocalAddr().String())
			pairs = append(pairs, [2]net.Conn{client, application})
		}
		for range 3 {
			p.ours(t, "ADD")
			wantRun("after another ADD")
		}
	})
}

// tell sends some bytes over a connection and waits for them at the other end.
func tell(from, to net.Conn) error {
	for _, c := range []net.Conn{from, to} {
		if err := c.SetDeadline(time.Now().Add(lab.Patience)); err != nil {
			return err
		}
	}
	if _, err := from.Write(payload); err != nil {
		return err
	}
	buf := make([]byte, len(payload))
	if n, err := to.Read(buf); err != nil || string(buf[:n]) != string(payload) {
		return errors.Join(err, os.ErrInvalid)
	}
	return nil
}

// TestListeners: the address on which the application listens decides which clients it
// serves, as without a sidecar.
func TestListeners(t *testing.T) {
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		p.nginx(t, addr("::", 8001)+" ipv6only=on")
		p.nginx(t, addr("127.0.0.1", 8002), addr("::1", 8002))
		p.nginx(t, addr(v4.pod, 8003))
		wantRefused(t, end{p.Client, v4.client}, addr(v4.pod, 8001))
		p.wantExactAt(t, v6.client, addr(v6.pod, 8001))
		for _, f := range p.fams() {
			wantRefused(t, end{p.Client, f.client}, addr(f.pod, 8002))
		}
		p.wantExactAt(t, v4.client, addr(v4.pod, 8003))
		wantRefused(t, end{p.Client, v6.client}, addr(v6.pod, 8003))
	})
}
