package lab

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestNet sends a line from the client through the node to the pod and back.
func TestNet(t *testing.T) {
	n := NewNet(t)
	n.Wire()
	for _, tc := range []struct{ from, to string }{
		{Client4, Pod4 + ":7"}, {OtherClient6, "[" + Pod6 + "]:7"},
	} {
		l, err := n.Pod.Listen("tcp", tc.to)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		conn, err := n.Client.Dial("tcp", tc.from, tc.to)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		srv, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got, want := srv.RemoteAddr().String(), conn.LocalAddr().String(); got != want {
			t.Errorf("pod saw %s, client is %s", got, want)
		}
		srv.Close()
	}
}

// TestDialPorts: two connections of one client have two ports, where the kernel has
// one port to give, and none of those that it gives to listeners.
func TestDialPorts(t *testing.T) {
	n := NewNet(t)
	n.Wire()
	n.Client.Sysctl("net.ipv4.ip_local_port_range", "61001 61001")
	seen := map[int]bool{}
	for _, to := range []string{Pod4 + ":7", Pod4 + ":9"} {
		l, err := n.Pod.Listen("tcp", to)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		conn, err := n.Client.Dial("tcp", Client4, to)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		end := conn.LocalAddr().(*net.TCPAddr)
		if seen[end.Port] || end.Port%2 != 0 {
			t.Errorf("%s twice, or one that listeners get", end)
		}
		seen[end.Port] = true
	}
}

// TestFirstSocket: a process whose first socket is where lo is down still
// listens on both families.
func TestFirstSocket(t *testing.T) {
	const env = "LAB_TEST_FIRST_SOCKET"
	Need(t)
	if os.Getenv(env) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestFirstSocket$")
		cmd.Env = append(os.Environ(), env+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	// What a CNI plugin leaves: an address, and lo down.
	down, up := New(t, "down"), New(t, "up").Up()
	Veth(down, "eth0", up, "down0")
	down.Addr("eth0", Client4+"/24", Client6+"/64")
	for _, ns := range []*NS{down, up} {
		l, err := ns.Listen("tcp", "[::]:7")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if got := l.Addr().String(); got != "[::]:7" {
			t.Errorf("listens on %s", got)
		}
	}
}

// TestUser: a program started as a user has its uid and exactly its capabilities.
func TestUser(t *testing.T) {
	ns := New(t, "user")
	for _, tc := range []struct {
		user User
		want string
	}{
		{User{UID: 7089, NoNewPrivs: true}, "Uid:7089 CapInh:0 CapPrm:0 CapEff:0 CapBnd:0 CapAmb:0 NoNewPrivs:1"},
		{User{UID: 7089, Caps: []string{"net_raw"}}, "Uid:7089 CapInh:2000 CapPrm:2000 CapEff:2000 CapBnd:2000 CapAmb:2000 NoNewPrivs:0"},
	} {
		out, err := ns.TryAs(tc.user, "cat", "/proc/self/status")
		if err != nil {
			t.Fatal(err, out)
		}
		var got []string
		for _, line := range strings.Split(out, "\n") {
			f := strings.Fields(line)
			if len(f) > 1 && (f[0] == "Uid:" || f[0] == "NoNewPrivs:" || strings.HasPrefix(f[0], "Cap")) {
				v := strings.TrimLeft(f[1], "0")
				if v == "" {
					v = "0"
				}
				got = append(got, f[0]+v)
			}
		}
		if g := strings.Join(got, " "); g != tc.want {
			t.Errorf("got  %s\nwant %s", g, tc.want)
		}
	}
}

// TestRemove: the namespace and what runs in it are gone with the test.
func TestRemove(t *testing.T) {
	Need(t, "sleep", "sh")
	var ns *NS
	var p *Proc
	t.Run("inner", func(t *testing.T) {
		ns = New(t, "gone").Up()
		p = ns.Start("sh", "-c", "setsid sleep 1000 & echo up; wait").WaitLog("up")
	})
	<-p.Done()
	if _, err := os.Stat(ns.Path()); !os.IsNotExist(err) {
		t.Errorf("stat %s: %v", ns.Path(), err)
	}
}

// TestMainCleansUp: a story outside of go test that fails or is interrupted
// leaves nothing behind.
func TestMainCleansUp(t *testing.T) {
	Need(t)
	var paths []string
	story := func(end func(TB)) func(TB) {
		return func(tb TB) {
			paths = append(paths, New(tb, "story").Path())
			end(tb)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var log bytes.Buffer
	if err := Main(ctx, io.Discard, story(func(TB) {})); err != nil {
		t.Errorf("good story: %v", err)
	}
	if err := Main(ctx, &log, story(func(tb TB) { tb.Fatalf("bad end") })); err == nil || err.Error() != "bad end" {
		t.Errorf("bad story: %v", err)
	}
	if err := Main(ctx, &log, story(func(tb TB) {
		cancel()
		for { // ended by the cleanup
			New(tb, "late")
		}
	})); err != context.Canceled {
		t.Errorf("interrupted story: %v", err)
	}
	late, err := filepath.Glob(filepath.Join(netnsDir, fmt.Sprintf("lab%d-*-late", os.Getpid())))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range append(paths, late...) {
		if _, err := os.Stat(p); !os.IsNotExist(err) {
			t.Errorf("stat %s: %v", p, err)
		}
	}
}
