package main

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// asServer makes the test binary be the program itself.
const asServer = "ECHO_SERVER_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asServer) != "" {
		main()
	}
	os.Exit(m.Run())
}

// start starts the program in the pod's namespace. It waits for the clients'
// first bytes as long as it takes: a test does not depend on time.
func start(t *testing.T, n *lab.Net, args ...string) *lab.Proc {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, append([]string{"--wait", "1m"}, args...)...)
	cmd.Env = append(os.Environ(), asServer+"=1")
	return n.Pod.StartCmd(cmd).WaitListen(3000)
}

// pod makes the topology with a running server.
func pod(t *testing.T, args ...string) (*lab.Net, *lab.Proc) {
	t.Helper()
	n := lab.NewNet(t)
	n.Wire()
	return n, start(t, n, args...)
}

// families are the client's and the server's addresses.
var families = []struct{ name, client, server string }{
	{"IPv4", lab.Client4, lab.Pod4 + ":3000"},
	{"IPv6", lab.Client6, "[" + lab.Pod6 + "]:3000"},
}

func TestSettings(t *testing.T) {
	env := map[string]string{"ECHO_ADDR": "127.0.0.1:7", "ECHO_MPTCP": "true", "ECHO_LOG_FORMAT": "json"}
	c, err := parseConfig([]string{"--addr", "[fd00::1]:3001", "--wait", "0s"}, func(k string) string { return env[k] }, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.addr.String() != "[fd00::1]:3001" || c.wait != 0 || c.drain != 10*time.Second || !c.mptcp || !c.log.JSON {
		t.Errorf("got %+v", c)
	}
}

// TestFaults: everything that is wrong is named at once.
func TestFaults(t *testing.T) {
	var out bytes.Buffer
	status := run([]string{"--addr", "here", "--wait", "-1s", "--log-format", "xml", "--mptcp", "maybe", "there"},
		func(k string) string { return map[string]string{"ECHO_DRAIN": "long"}[k] }, nil, &out)
	want := `echo-server: unexpected argument "there"
--addr "here": want an IP address with a port of 1-65535, such as 0.0.0.0:80, [fd00::1]:80 or :80
--wait "-1s": want a time such as 25s, 500ms or 0s
ECHO_DRAIN "long": want a time such as 25s, 500ms or 0s
--mptcp "maybe": want true or false
--log-format "xml": want text or json
`
	if d := cmp.Diff(want, out.String()); status != 2 || d != "" {
		t.Errorf("status %d, %s", status, d)
	}
}

func TestHelpAndVersion(t *testing.T) {
	for arg, want := range map[string]string{"--help": "ECHO_ADDR", "--version": "echo-server "} {
		var out bytes.Buffer
		if status := run([]string{arg}, os.Getenv, &out, &out); status != 0 || !strings.Contains(out.String(), want) {
			t.Errorf("%s: status %d, %s", arg, status, out.String())
		}
	}
}

// TestBegins: what is HTTP, what is not, and what may become it.
func TestBegins(t *testing.T) {
	for _, m := range methods {
		if len(m) > longestMethod {
			t.Errorf("%s does not fit", m)
		}
	}
	for said, want := range map[string][2]bool{
		"":         {false, true},
		"P":        {false, true},
		"OPTIONS":  {false, true},
		"GET ":     {true, false},
		"OPTIONS ": {true, false},
		"GETTING":  {false, false},
		"get ":     {false, false},
		"hello":    {false, false},
		"\n":       {false, false},
	} {
		yes, perhaps := begins([]byte(said))
		if got := [2]bool{yes, perhaps}; got != want {
			t.Errorf("%q: got %v, want %v", said, got, want)
		}
	}
}

func TestWantsJSON(t *testing.T) {
	for accept, want := range map[string]bool{
		"":                                false,
		"*/*":                             false,
		"application/json":                true,
		"text/html, application/json;q=1": true,
		"Application/JSON; charset=utf-8": true,
		"application/json;q=0":            false,
		"application/jsonx, ;;;":          false,
	} {
		if got := wantsJSON([]string{accept}); got != want {
			t.Errorf("%q: got %v", accept, got)
		}
	}
}
