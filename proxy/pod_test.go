package main

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
)

// pod is package lab's topology, with the pod's rules and a sidecar. The tests
// are the client and the application: their sockets are in the namespaces.
type pod struct {
	*lab.Net
	t       *testing.T
	mode    string
	sidecar *lab.Proc
}

// bare is a pod without rules and sidecar.
func bare(t *testing.T, mode string) *pod {
	t.Helper()
	p := &pod{Net: lab.NewNet(t), t: t, mode: mode}
	p.Wire()
	return p
}

// prepared is a pod with rules but without sidecar.
func prepared(t *testing.T, mode string) *pod {
	t.Helper()
	p := bare(t, mode)
	p.apply(p.config())
	return p
}

// newPod is a pod with rules and a sidecar that is ready.
func newPod(t *testing.T, mode string, args ...string) *pod {
	t.Helper()
	p := prepared(t, mode)
	p.start(args...)
	p.waitReady()
	return p
}

func (p *pod) apply(c intercept.Config) {
	p.t.Helper()
	if err := intercept.Apply(p.Pod.Path(), c); err != nil {
		p.t.Fatal(err)
	}
}

// user is who the sidecar runs as: without any capability in nat mode.
func (p *pod) user() lab.User {
	u := lab.User{UID: contract.ProxyUID, NoNewPrivs: true}
	if p.mode == contract.ModeTProxy {
		u.Caps = []string{"net_raw"}
	}
	return u
}

// start starts a sidecar.
func (p *pod) start(args ...string) {
	p.t.Helper()
	p.startAs(p.user(), args...)
	p.sidecar.WaitListen(contract.ProxyPort, contract.AdminPort)
}

func (p *pod) startAs(user lab.User, args ...string) {
	p.t.Helper()
	p.run(user, sidecarCommand(p.t, append([]string{"--mode", p.mode}, args...)...))
}

// run runs the sidecar. If the race detector speaks, the test fails.
func (p *pod) run(user lab.User, command []string) {
	p.t.Helper()
	s := p.Pod.StartAs(user, command...)
	p.t.Cleanup(func() {
		if strings.Contains(s.Output(), "DATA RACE") {
			p.t.Error("a data race in the sidecar")
		}
	})
	p.sidecar = s
}

func (p *pod) waitReady() {
	p.t.Helper()
	lab.Eventually(p.t, "sidecar ready", func() error {
		status, body := p.admin("/readyz")
		if status != "200" {
			return fmt.Errorf("%s %s", status, body)
		}
		return nil
	})
}

// admin asks the sidecar's admin port, as the kubelet does.
func (p *pod) admin(path string) (status, body string) {
	p.t.Helper()
	conn, err := p.Node.Dial("tcp", "", addr(lab.Pod4, contract.AdminPort))
	if err != nil {
		return "no answer", err.Error()
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s HTTP/1.0\r\n\r\n", path)
	answer, _ := io.ReadAll(conn)
	head, body, _ := strings.Cut(string(answer), "\r\n\r\n")
	if f := strings.Fields(head); len(f) > 1 {
		status = f[1]
	}
	return status, strings.TrimSpace(body)
}

// ipFamily is one IP family's view of the topology.
type ipFamily struct{ name, client, pod, lo string }

var (
	ip4 = ipFamily{"IPv4", lab.Client4, lab.Pod4, "127.0.0.1"}
	ip6 = ipFamily{"IPv6", lab.Client6, lab.Pod6, "::1"}
)

// inModes runs a story in a pod of its own for each mode, side by side.
func inModes(t *testing.T, story func(*testing.T, *pod)) {
	for _, mode := range []string{contract.ModeNAT, contract.ModeTProxy} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			story(t, newPod(t, mode))
		})
	}
}

// inFamilies runs a story for both families, one after the other.
func inFamilies(t *testing.T, story func(*testing.T, ipFamily)) {
	for _, f := range []ipFamily{ip4, ip6} {
		t.Run(f.name, func(t *testing.T) { story(t, f) })
	}
}

func addr(ip string, port int) string { return net.JoinHostPort(ip, fmt.Sprint(port)) }

// app is an application: a listener in the pod.
type app struct {
	net.Listener
	port int
}

// listen starts an application on the port of both families, any if 0.
func (p *pod) listen(t *testing.T, port int) *app {
	t.Helper()
	ln, err := p.Pod.Listen("tcp", addr("::", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return &app{ln, ln.Addr().(*net.TCPAddr).Port}
}

// accept takes the application's next connection.
func (a *app) accept(t *testing.T) *net.TCPConn {
	t.Helper()
	_ = a.Listener.(*net.TCPListener).SetDeadline(time.Now().Add(lab.Patience))
	conn, err := a.Accept()
	if err != nil {
		t.Fatalf("application: %v", err)
	}
	return patient(t, conn)
}

// dial connects a client to the application.
func (p *pod) dial(t *testing.T, f ipFamily, port int) *net.TCPConn {
	t.Helper()
	return p.dialFrom(t, f.client, f, port)
}

func (p *pod) dialFrom(t *testing.T, local string, f ipFamily, port int) *net.TCPConn {
	t.Helper()
	conn, err := p.Client.Dial("tcp", local, addr(f.pod, port))
	if err != nil {
		t.Fatalf("client: %v", err)
	}
	return patient(t, conn)
}

// patient bounds all that the test does with a connection, and closes it.
func patient(t *testing.T, conn net.Conn) *net.TCPConn {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(lab.Patience))
	t.Cleanup(func() { conn.Close() })
	return conn.(*net.TCPConn)
}

// pair is a connection: the client's end and the application's.
func (p *pod) pair(t *testing.T, f ipFamily) (client, application *net.TCPConn) {
	t.Helper()
	a := p.listen(t, 0)
	client = p.dial(t, f, a.port)
	return client, a.accept(t)
}

// wantSource compares what the application sees with what the client is: the
// address always, the port where the mode promises it.
func (p *pod) wantSource(t *testing.T, client, application net.Conn) {
	t.Helper()
	c, a := sock.AddrPort(client.LocalAddr()), sock.AddrPort(application.RemoteAddr())
	if c.Addr() != a.Addr() || p.mode == contract.ModeNAT && c.Port() != a.Port() {
		t.Errorf("%s mode: application sees %s, client is %s", p.mode, a, c)
	}
}

// wantEnd waits for the sidecar's log line of a client's connection and
// compares how it ended.
func (p *pod) wantEnd(t *testing.T, client netip.AddrPort, how string) map[string]string {
	t.Helper()
	var line map[string]string
	lab.Eventually(t, "log line of "+client.String(), func() error {
		for _, l := range p.lines("connection") {
			if l["client"] == client.String() {
				line = l
				return nil
			}
		}
		return fmt.Errorf("not in:\n%s", p.sidecar.Output())
	})
	if line["end"] != how {
		t.Errorf("connection of %s ended %q, want %q: %v", client, line["end"], how, line)
	}
	return line
}

// lines are the sidecar's log lines with a message, as key and value.
func (p *pod) lines(msg string) []map[string]string {
	var all []map[string]string
	for _, text := range strings.Split(p.sidecar.Output(), "\n") {
		if line := parseLine(text); line["msg"] == msg {
			all = append(all, line)
		}
	}
	return all
}

// parseLine reads slog's text format.
func parseLine(text string) map[string]string {
	line := map[string]string{}
	for text != "" {
		key, rest, ok := strings.Cut(text, "=")
		if !ok {
			return nil
		}
		var value string
		if strings.HasPrefix(rest, `"`) {
			if _, err := fmt.Sscanf(rest, "%q", &value); err != nil {
				return nil
			}
			rest = rest[len(fmt.Sprintf("%q", value)):]
		} else {
			end := strings.IndexByte(rest+" ", ' ')
			value, rest = rest[:end], rest[end:]
		}
		line[key] = value
		text = strings.TrimPrefix(rest, " ")
	}
	return line
}
