package main

import (
	"bytes"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestOpenListener: only what LISTEN_PID gives to this very process counts.
func TestOpenListener(t *testing.T) {
	c := config{mode: contract.ModeNAT, addr: netip.MustParseAddrPort("127.0.0.1:0")}
	t.Setenv("LISTEN_FDS", "2")
	for pid, want := range map[string]string{
		"":                        "",
		"1":                       "",
		strconv.Itoa(os.Getpid()): `LISTEN_FDS is "2", but the sidecar takes one listener`,
	} {
		t.Setenv("LISTEN_PID", pid)
		ln, err := openListener(t.Context(), c)
		switch {
		case err == nil:
			ln.Close()
			if want != "" {
				t.Errorf("for process %q: the sidecar opened %s, want %s", pid, ln.Addr(), want)
			}
		case want == "" || !strings.Contains(err.Error(), want):
			t.Errorf("for process %q: %v, want %q", pid, err, want)
		}
	}
}

// TestOpenListenerHeld: a program before the sidecar would open the port again that the
// holder has.
func TestOpenListenerHeld(t *testing.T) {
	t.Setenv("LISTEN_FDS", "1")
	t.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
	c := config{mode: contract.ModeTProxy, hold: "/run/tproxy/hold.sock"}
	if _, err := openListener(t.Context(), c); err == nil || !strings.Contains(err.Error(), "--hold does not go with") {
		t.Errorf("%v", err)
	}
}

func TestEnvironment(t *testing.T) {
	got := environment([]string{"A=1", "LISTEN_PID=7", "LISTEN_FDS=3", "LISTEN_FDNAMES=a:b:c", "LISTENER=x"}, 9, 2)
	if want := []string{"A=1", "LISTENER=x", "LISTEN_PID=9", "LISTEN_FDS=2"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestListenCommand(t *testing.T) {
	for args, want := range map[string]struct {
		status int
		says   string
	}{
		"listen":                          {2, "no command: write it behind --"},
		"listen haproxy":                  {2, `unexpected argument "haproxy"`},
		"listen --":                       {2, "no command"},
		"listen --addr here -- haproxy":   {2, `--addr "here": want an IP address`},
		"listen -- /nowhere/proxy --help": {1, "/nowhere/proxy"},
		"listen --help":                   {0, "-dual-stack"},
	} {
		var out bytes.Buffer
		status := run(strings.Fields(args), func(string) string { return "" }, &out, &out)
		if status != want.status || !strings.Contains(out.String(), want.says) {
			t.Errorf("%s: status %d, %s, want %d, %s", args, status, out.String(), want.status, want.says)
		}
	}
}
