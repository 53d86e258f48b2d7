package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// webPort is where nginx listens, the application of most tests.
const webPort = 8080

// nginx starts Debian's nginx as an unprivileged user. It answers every request
// with its peer, "address port", and logs the same to access.log in the
// directory that is returned. The listen addresses may be given.
func (p *pod) nginx(t *testing.T, listen ...string) (dir_ string, proc *lab.Proc) {
	t.Helper()
	lab.Need(t, "nginx")
	if len(listen) == 0 {
		listen = []string{addr("0.0.0.0", webPort), addr("::", webPort)}
	}
	d := dir(t, appUID)
	conf := write(t, filepath.Join(d, "nginx.conf"), fmt.Sprintf(`
daemon off; master_process off; pid %[1]s/pid; error_log stderr error;
worker_rlimit_nofile 20000;
events { worker_connections 19000; }
http {
	log_format seen '$remote_addr $remote_port';
	access_log %[1]s/access.log seen;
	client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f;
	uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
	keepalive_timeout 600s;
	server {
		listen %[2]s backlog=8192;
		location / { return 200 "$remote_addr $remote_port\n"; }
	}
}
`, d, strings.Join(listen, " backlog=8192;\n\t\tlisten ")))
	_, port, _ := net.SplitHostPort(listen[0])
	var n int
	fmt.Sscan(port, &n)
	return d, p.Pod.StartAs(app, "nginx", "-e", "stderr", "-c", conf).WaitListen(n)
}

// ask returns the peer that nginx sees on a connection, as "address:port".
func ask(conn net.Conn) (string, error) {
	if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		return "", err
	}
	_, body, ok := strings.Cut(string(answer), "\r\n\r\n")
	if !ok {
		return "", fmt.Errorf("short answer %q", answer)
	}
	return peer(body)
}

// peer makes address:port of "address port".
func peer(text string) (string, error) {
	f := strings.Fields(text)
	if len(f) != 2 {
		return "", fmt.Errorf("not an address and a port: %q", text)
	}
	return net.JoinHostPort(f[0], f[1]), nil
}

// wantExact makes one connection from the client to nginx and compares the addresses.
func (p *pod) wantExact(t *testing.T, f family) {
	t.Helper()
	p.wantExactAt(t, f.client, addr(f.pod, webPort))
}

func (p *pod) wantExactAt(t *testing.T, from, to string) {
	t.Helper()
	conn, err := p.Client.Dial("tcp", from, to)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(lab.Patience)); err != nil {
		t.Fatal(err)
	}
	saw, err := ask(conn)
	if err != nil {
		t.Errorf("%s to %s: %v", conn.LocalAddr(), to, err)
		return
	}
	p.wantSeen(t, saw, conn.LocalAddr().String())
}

// hold starts a client program whose stdin stays open until the test's end.
func (p *pod) hold(t *testing.T, ns *lab.NS, args ...string) *lab.Proc {
	t.Helper()
	proc, _ := talker(t, ns, args...)
	return proc
}

// talker starts a program and returns what writes to its stdin, which stays open
// until the test's end.
func talker(t *testing.T, ns *lab.NS, args ...string) (*lab.Proc, func(string)) {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin = r
	proc := ns.StartCmd(cmd)
	r.Close()
	t.Cleanup(func() { w.Close(); proc.Kill() })
	return proc, func(text string) {
		if _, err := w.WriteString(text); err != nil {
			t.Log(err) // the program has ended
		}
	}
}

// socketTo is the local address of a namespace's only established connection to a
// port, as the kernel has it.
func socketTo(t *testing.T, ns *lab.NS, port int) string {
	t.Helper()
	out := ns.Run("ss", "-Htn", "state", "established", "dport", "=", fmt.Sprintf(":%d", port))
	lines := strings.Split(strings.TrimSpace(out), "\n")
	f := strings.Fields(lines[0])
	if len(lines) != 1 || len(f) < 4 {
		t.Fatalf("want exactly one connection to port %d:\n%s", port, out)
	}
	return f[2]
}

// field is the value of key=value in a text of such pairs.
func field(text, key string) string {
	for _, f := range strings.Fields(text) {
		if v, ok := strings.CutPrefix(f, key+"="); ok {
			return v
		}
	}
	return ""
}

// firstLine is the first line of a text with the prefix, without it.
func firstLine(text, prefix string) string {
	for s := bufio.NewScanner(strings.NewReader(text)); s.Scan(); {
		if v, ok := strings.CutPrefix(s.Text(), prefix); ok {
			return v
		}
	}
	return ""
}

// addrPort is netip.ParseAddrPort that ends the test.
func addrPort(t *testing.T, s string) netip.AddrPort {
	t.Helper()
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		t.Fatal(err)
	}
	return ap
}
