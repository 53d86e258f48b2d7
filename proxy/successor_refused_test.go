package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestHandOverRefused: a program that cannot go on where this one is is not tried twice:
// it says why, and nothing is lost.
func TestHandOverRefused(t *testing.T) {
	p := prepared(t, contract.ModeNAT)
	exe, err := executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := openDir(t)
	at := filepath.Join(dir, "tproxy-proxy")
	if err := os.Link(exe, at); err != nil {
		t.Fatal(err)
	}
	p.run(p.user(), []string{at, childArg, "--mode", contract.ModeNAT})
	p.sidecar.WaitListen(contract.ProxyPort, contract.AdminPort)
	p.waitReady()
	client, application := p.pair(t, ip4)
	say(t, client, application, "before")

	script := func(text string) func(string) error {
		return func(path string) error { return os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755) }
	}
	for i, next := range []struct {
		name, says string
		put        func(path string) error
	}{
		{"no program", "no such file or directory", func(string) error { return nil }},
		{"no sidecar", "is no sidecar that can take over", script("exit 0")},
		{"one that fails", "exit status 7: out of luck", script("echo out of luck >&2; exit 7")},
		{"one that is gone after the check", "no such file or directory", script(`rm "$0"; echo takes over`)},
		{
			"another after the check", "is another program now than the one that was checked",
			script(`printf '#!/bin/sh\n' >"$0.new"; chmod 755 "$0.new"; mv "$0.new" "$0"; echo takes over`),
		},
		{"no executable", "exec format error", func(path string) error { return os.WriteFile(path, []byte("nonsense"), 0o755) }},
		{
			"a sidecar of other settings", "--mode is tproxy, and the sidecar to take over from has nat",
			script("exec " + exe + " " + childArg + " --mode tproxy"),
		},
		{
			"a sidecar with a socket", "--accept-proxy is /front.sock, and the sidecar to take over from has none",
			script("exec " + exe + " " + childArg + " --mode nat --accept-proxy unix:/front.sock"),
		},
	} {
		if err := errors.Join(os.RemoveAll(at), next.put(at)); err != nil {
			t.Fatal(err)
		}
		p.sidecar.Signal(unix.SIGUSR2)
		lab.Eventually(t, "the refusal of "+next.name, func() error {
			if n := len(p.lines("not handed over: this program goes on with every connection")); n != i+1 {
				return fmt.Errorf("%d refusals", n)
			}
			return nil
		})
		if line := p.lines("not handed over: this program goes on with every connection")[i]; !strings.Contains(line["err"], next.says) {
			t.Errorf("%s: %v, want %q", next.name, line, next.says)
		}
		say(t, client, application, "after "+next.name)
		again, app := p.pair(t, ip6)
		say(t, app, again, "a new one")
		if status, body := p.admin("/readyz"); status != "200" {
			t.Errorf("after %s: %s %s", next.name, status, body)
		}
	}

	if err := errors.Join(os.RemoveAll(at), os.Link(exe, at)); err != nil {
		t.Fatal(err)
	}
	refused := len(p.lines("not handed over: this program goes on with every connection"))
	p.sidecar.Signal(unix.SIGUSR2)
	p.sidecar.WaitLog("took over")
	if n := len(p.lines("not handed over: this program goes on with every connection")); n != refused {
		t.Errorf("refused %d times, and then %d", refused, n)
	}
	say(t, client, application, "in the end")
}

// openDir is a directory of the sidecar's user.
func openDir(t *testing.T) string {
	t.Helper()
	return filepath.Dir(frontPath(t, contract.ProxyUID, contract.ProxyUID))
}
