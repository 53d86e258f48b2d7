package main

import (
	"net"
	"os/exec"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// TestForeignBytes: a client gets its own bytes back as they are, which is what
// an echo is; nothing of them comes into the log, or to a client that asks by
// HTTP.
func TestForeignBytes(t *testing.T) {
	lab.Need(t, "nc", "curl")
	const nasty = "x\x1b]0;t\x07\x1b[2J\nlevel=ERROR msg=fake\r\n\u202e\u2028\u009b\x7f\xff\xc3\"\\'"
	n, p := pod(t)
	for _, f := range families {
		host, port, err := net.SplitHostPort(f.server)
		if err != nil {
			t.Fatal(err)
		}
		for _, said := range []string{nasty, "GET " + nasty + "\r\n\r\n", "GET / HTTP/1.1\r\nHost: " + nasty + "\r\n\r\n", strings.Repeat(nasty, 10000)} {
			cmd := exec.Command("nc", "-N", host, port)
			cmd.Stdin = strings.NewReader(said)
			out, err := n.Client.TryCmd(cmd)
			if isHTTP := strings.HasPrefix(said, "GET "); err != nil || strings.HasSuffix(out, said) == isHTTP {
				t.Errorf("%.100q: %v, %.200q", said, err, out)
			}
		}
		out := curl(t, n, "-g", "-H", "X: \u202e\u009b", "-A", "\u202e\u009b", "http://"+f.server+"/%1b[2J?a=%0alevel")
		if !strings.HasPrefix(out, "peer=") || strings.Count(out, "\n") != 1 || strings.ContainsAny(out, "\x1b\u202e") {
			t.Errorf("got %q", out)
		}
	}
	for _, line := range strings.Split(p.Output(), "\n") {
		if strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' }) || len(line) > 300 || strings.HasPrefix(line, "level=") {
			t.Errorf("log: %q", line)
		}
	}
}
