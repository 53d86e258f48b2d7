package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// inFamilies runs a story over IPv4 and IPv6, with and without MPTCP.
func inFamilies(t *testing.T, story func(t *testing.T, n *lab.Net, client, server string), args ...string) {
	t.Helper()
	for _, mptcp := range []string{"false", "true"} {
		n, p := pod(t, append(args, "--mptcp", mptcp)...)
		for _, f := range families {
			t.Run(f.name+"/mptcp="+mptcp, func(t *testing.T) {
				if mptcp == "true" {
					lab.NeedKernel(t, lab.MPTCP)
				}
				story(t, n, f.client, f.server)
				if got := strings.Contains(n.Pod.Run("ss", "-HMln"), ":3000"); fmt.Sprint(got) != mptcp {
					t.Errorf("listens with MPTCP: %v", got)
				}
			})
		}
		p.Kill()
	}
}

// TestCurl: text, JSON, HEAD, POST and two requests on one connection.
func TestCurl(t *testing.T) {
	lab.Need(t, "curl", "ss")
	inFamilies(t, func(t *testing.T, n *lab.Net, _, server string) {
		const own = "\n%{local_ip} %{local_port}"
		for _, tc := range []struct {
			name string
			args []string
			want string // with %s for the client
		}{
			{"text", nil, "peer=%s local=" + server + "\n"},
			{"json", []string{"-H", "Accept: application/json"}, `{"peer":"%s","local":"` + server + `"}` + "\n"},
			{"post", []string{"--data-binary", "@/proc/version"}, "peer=%s local=" + server + "\n"},
			{"long", []string{"-H", "X-Long: " + strings.Repeat("x", 3000)}, "peer=%s local=" + server + "\n"},
		} {
			out := curl(t, n, append([]string{"-w", own, "http://" + server}, tc.args...)...)
			answer, client := cutClient(t, out)
			if d := cmp.Diff(fmt.Sprintf(tc.want, client), answer); d != "" {
				t.Errorf("%s: %s", tc.name, d)
			}
		}
		if out := curl(t, n, "-I", "http://"+server); !strings.HasPrefix(out, "HTTP/1.1 200 OK\r\n") {
			t.Errorf("HEAD: %s", out)
		}
		out := curl(t, n, "http://"+server, "http://"+server+"/again")
		if lines := strings.SplitAfter(out, "\n"); len(lines) != 3 || lines[0] != lines[1] {
			t.Errorf("two requests on one connection: %q", out)
		}
	})
}

// curl runs curl in the client's namespace.
func curl(t *testing.T, n *lab.Net, args ...string) string {
	t.Helper()
	out, err := n.Client.Try(append([]string{"curl", "-sSf", "--noproxy", "*"}, args...)...)
	if err != nil {
		t.Fatalf("curl %v: %v\n%s", args, err, out)
	}
	return out
}

// cutClient cuts what curl says about its own socket from the answer.
func cutClient(t *testing.T, out string) (answer, client string) {
	t.Helper()
	i := strings.LastIndexByte(out, '\n')
	f := strings.Fields(out[i+1:])
	if len(f) != 2 {
		t.Fatalf("not curl's output: %q", out)
	}
	return out[:i], net.JoinHostPort(f[0], f[1])
}

// TestJSONNames: the JSON is what scripts were written for.
func TestJSONNames(t *testing.T) {
	n, _ := pod(t)
	for _, f := range families {
		out := curl(t, n, "--interface", f.client, "--local-port", "40001",
			"-H", "Accept: application/json", "http://"+f.server)
		var got map[string]string
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Fatal(err, out)
		}
		want := map[string]string{"peer": net.JoinHostPort(f.client, "40001"), "local": f.server}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	}
}

// TestNetcat: the line comes first and is followed by what nc sent; nc -N ends
// its half and gets everything.
func TestNetcat(t *testing.T) {
	lab.Need(t, "nc")
	inFamilies(t, func(t *testing.T, n *lab.Net, _, server string) {
		host, port, _ := net.SplitHostPort(server)
		for name, said := range map[string]string{
			"nothing": "", "a line": "hello\n", "a beginning": "GE", "binary": "\x00\xff\r\n\r\n",
		} {
			cmd := exec.Command("nc", "-N", host, port)
			cmd.Stdin = strings.NewReader(said)
			out, err := n.Client.TryCmd(cmd)
			line, rest, _ := strings.Cut(out, "\n")
			if err != nil || !strings.HasSuffix(line, " local="+server) || rest != said {
				t.Errorf("%s: %v, %q", name, err, out)
			}
		}
		// An HTTP request by hand, with an early end, is still answered.
		cmd := exec.Command("nc", "-N", host, port)
		cmd.Stdin = strings.NewReader("GET / HTTP/1.0\r\n\r\n")
		if out, err := n.Client.TryCmd(cmd); err != nil || !strings.HasPrefix(out, "HTTP/1.0 200 OK\r\n") {
			t.Errorf("request by hand: %v, %q", err, out)
		}
	})
}

// TestSilent: a client that waits for the server gets the line, then its echo
// and, having ended its half, the server's end.
func TestSilent(t *testing.T) {
	inFamilies(t, func(t *testing.T, n *lab.Net, client, server string) {
		c := dial(t, n, client, server)
		r := bufio.NewReader(c)
		if line, err := r.ReadString('\n'); err != nil || line != fmt.Sprintf("peer=%s local=%s\n", c.LocalAddr(), server) {
			t.Fatalf("%v, %q", err, line)
		}
		// Not sniffed any more: everything is echoed.
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if rest, err := io.ReadAll(r); err != nil || string(rest) != "GET / HTTP/1.1\r\n\r\n" {
			t.Errorf("%v, %q", err, rest)
		}
	}, "--wait", "10ms")
}

// TestBig: 64 MiB come back as they went, with a FIN behind them.
func TestBig(t *testing.T) {
	inFamilies(t, func(t *testing.T, n *lab.Net, client, server string) {
		c := dial(t, n, client, server)
		const size = 64 << 20
		sent, got := sha256.New(), sha256.New()
		go func() {
			src := io.LimitReader(rand.NewChaCha8([32]byte{}), size)
			_, _ = io.Copy(c, io.TeeReader(struct{ io.Reader }{src}, sent))
			_ = c.CloseWrite()
		}()
		r := bufio.NewReader(c)
		if _, err := r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(got, r); err != nil || n != size {
			t.Fatalf("%d bytes, %v", n, err)
		}
		if string(sent.Sum(nil)) != string(got.Sum(nil)) {
			t.Error("the echo differs")
		}
	})
}

// TestSlow: a client that sends and does not read is stopped by TCP, not
// buffered for; when it reads, all is there.
func TestSlow(t *testing.T) {
	n, p := pod(t)
	c := dial(t, n, families[0].client, families[0].server)
	const most = 256 << 20
	block := make([]byte, 1<<20)
	sent := 0
	for sent < most {
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		w, err := c.Write(block)
		sent += w
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
			break
		}
	}
	if sent >= most/2 {
		t.Fatalf("the server took %d MiB without sending them\n%s", sent>>20, p.Output())
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	if _, err := r.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if got, err := io.Copy(io.Discard, r); err != nil || int(got) != sent {
		t.Errorf("%d of %d bytes came back, %v", got, sent, err)
	}
}

// TestDrain: SIGTERM refuses new connections, lets a running one finish and
// ends an idle HTTP connection, then the program ends in order.
func TestDrain(t *testing.T) {
	n, p := pod(t, "--drain", "1m")
	client, server := families[0].client, families[0].server
	running := dial(t, n, client, server)
	r := speak(t, running)
	idle := dial(t, n, client, server)
	i := bufio.NewReader(idle)
	if _, err := io.WriteString(idle, "HEAD / HTTP/1.1\r\nHost: pod\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	for line := ""; line != "\r\n"; {
		var err error
		if line, err = i.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}

	p.Signal(syscall.SIGTERM)
	lab.Eventually(t, "refusal", func() error {
		c, err := n.Client.Dial("tcp", client, server)
		if err == nil {
			c.Close()
			return errors.New("accepted")
		}
		return nil
	})
	if _, err := i.ReadByte(); err != io.EOF {
		t.Errorf("idle connection: %v", err)
	}
	if _, err := io.WriteString(running, "still here\n"); err != nil {
		t.Fatal(err)
	}
	_ = running.CloseWrite()
	if rest, err := io.ReadAll(r); err != nil || string(rest) != "still here\n" {
		t.Errorf("running connection: %v, %q", err, rest)
	}
	if err := p.Wait(); err != nil {
		t.Errorf("%v\n%s", err, p.Output())
	}
}

// TestDrainEnds: what is left at the drain timeout is reset.
func TestDrainEnds(t *testing.T) {
	n, p := pod(t, "--drain", "0s", "--log-format", "json")
	c := dial(t, n, families[1].client, families[1].server)
	r := speak(t, c)
	if err := p.Stop(); err != nil {
		t.Errorf("%v\n%s", err, p.Output())
	}
	if _, err := r.ReadByte(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a reset", err)
	}
	want := fmt.Sprintf(`"msg":"connection","peer":"%s","local":"%s"}`, c.LocalAddr(), families[1].server)
	if !strings.Contains(p.Output(), want) {
		t.Errorf("not in the log: %s\n%s", want, p.Output())
	}
	lab.SnakeCaseKeys(t, p.Output())
}

// speak says a line and reads it behind the server's.
func speak(t *testing.T, c net.Conn) *bufio.Reader {
	t.Helper()
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	line, err := r.ReadString('\n')
	if err == nil {
		line, err = r.ReadString('\n')
	}
	if err != nil || line != "hello\n" {
		t.Fatalf("%v, %q", err, line)
	}
	return r
}

func dial(t *testing.T, n *lab.Net, client, server string) *net.TCPConn {
	t.Helper()
	c, err := n.Client.Dial("tcp", client, server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}
