package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/proxy/accesslog"
	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
)

// echo sends back what it gets, on every connection.
func (a *app) echo() *app {
	go func() {
		for {
			conn, err := a.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	return a
}

// TestDrain: after SIGTERM running connections continue, new ones are refused, and
// the sidecar exits with the last of them.
func TestDrain(t *testing.T) {
	inModesStarted(t, []string{"--drain", "10m"}, func(t *testing.T, p *pod) {
		client, application := p.pair(t, ip4)
		say(t, client, application, "before")
		p.sidecar.Signal(syscall.SIGTERM)
		p.sidecar.WaitLog("draining")
		lab.Eventually(t, "not ready", func() error {
			if status, body := p.admin("/readyz"); status != "503" || !strings.Contains(body, "draining") {
				return fmt.Errorf("%s %s", status, body)
			}
			return nil
		})
		if status, _ := p.admin("/healthz"); status != "200" {
			t.Errorf("/healthz answers %s while draining", status)
		}
		lab.Eventually(t, "listener closed", func() error {
			if ok, err := p.Pod.Listening(contract.ProxyPort); ok || err != nil {
				return fmt.Errorf("listening: %v, %v", ok, err)
			}
			return nil
		})
		p.wantRefused(t, ip4, p.listen(t, 0).port)
		move(t, client, application, 1<<20)
		move(t, application, client, 1<<20)
		if err := p.sidecar.Wait(); err != nil {
			t.Errorf("ended with %v", err)
		}
		p.wantEnd(t, sock.AddrPort(client.LocalAddr()), accesslog.Closed)
	})
}

// TestDrainTimeout: what is left at the timeout is reset.
func TestDrainTimeout(t *testing.T) {
	for _, tt := range []struct {
		name, drain string
		signals     int
	}{
		{"timeout", "10ms", 1},
		{"no timeout", "0s", 1},
		{"a second signal", "10m", 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newPod(t, contract.ModeNAT, "--drain", tt.drain)
			client, application := p.pair(t, ip4)
			say(t, client, application, "before")
			me := sock.AddrPort(client.LocalAddr())
			p.sidecar.Signal(syscall.SIGTERM)
			if tt.signals > 1 {
				p.sidecar.WaitLog("draining").Signal(syscall.SIGTERM)
			}
			wantReset(t, client)
			wantReset(t, application)
			if err := p.sidecar.Wait(); err != nil {
				t.Errorf("ended with %v", err)
			}
			p.wantEnd(t, me, accesslog.Drained)
			said := p.lines("drain timeout: resetting remaining connections")
			if timeout := tt.signals == 1; timeout != (len(said) == 1) || timeout && said[0]["connections"] != "1" {
				t.Errorf("the log says %v", said)
			}
		})
	}
}

// TestLastCall: clients that the kernel has told they are connected are served,
// even if the sidecar gets SIGTERM before it accepts them.
func TestLastCall(t *testing.T) {
	inModesStarted(t, []string{"--drain", "10m"}, func(t *testing.T, p *pod) {
		a := p.listen(t, 0).echo()
		p.sidecar.Halt()
		var clients []*net.TCPConn
		for range 100 {
			clients = append(clients, p.dial(t, ip4, a.port))
		}
		p.sidecar.Signal(syscall.SIGTERM)
		p.sidecar.Signal(syscall.SIGCONT)
		for i, c := range clients {
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadAll(c); err != nil {
				t.Errorf("client %d: %v", i, err)
			}
		}
		if err := p.sidecar.Wait(); err != nil {
			t.Errorf("ended with %v", err)
		}
	})
}

// TestDescriptors: with few descriptors clients wait for their turn, health checks are
// answered and no client is refused.
func TestDescriptors(t *testing.T) {
	inModesLimited(t, "64:64", func(t *testing.T, p *pod) {
		a := p.listen(t, 0).echo()
		var clients []*net.TCPConn
		for range 3 * connsFor(64) {
			clients = append(clients, p.dial(t, ip4, a.port))
		}
		p.sidecar.WaitLog(errFull.Error())
		if status, body := p.admin("/readyz"); status != "200" {
			t.Errorf("/readyz: %s %s", status, body)
		}
		for _, c := range clients {
			exchange(t, c, "served")
			c.Close()
		}
		if n := strings.Count(p.sidecar.Output(), "cannot accept"); n != 1 {
			t.Errorf("the shortage is logged %d times", n)
		}
	})
}

// TestDescriptorsGone: accept itself fails for a while, as when other
// processes have used up the machine's files.
func TestDescriptorsGone(t *testing.T) {
	p := newPod(t, contract.ModeNAT)
	a := p.listen(t, 0).echo()
	exchange(t, p.dial(t, ip4, a.port), "before")
	p.setLimit(t, "4")
	client := p.dial(t, ip4, a.port)
	p.sidecar.WaitLog(unix.EMFILE.Error())
	p.setLimit(t, "4096")
	exchange(t, client, "after")
	if n := strings.Count(p.sidecar.Output(), "cannot accept"); n != 1 {
		t.Errorf("the shortage is logged %d times", n)
	}
}

func (p *pod) setLimit(t *testing.T, soft string) {
	t.Helper()
	if out, err := p.Node.TryAs(p.user(), "prlimit", "--pid", fmt.Sprint(p.sidecar.Pid()), "--nofile="+soft+":"); err != nil {
		t.Fatalf("prlimit: %v\n%s", err, out)
	}
}

// TestFileLimit: the soft limit becomes the hard one.
func TestFileLimit(t *testing.T) {
	inModesLimited(t, "100:3000", func(t *testing.T, p *pod) {
		limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", p.sidecar.Pid()))
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(string(limits), "\n") {
			if f := strings.Fields(line); strings.HasPrefix(line, "Max open files") && (f[3] != "3000" || f[4] != "3000") {
				t.Error(line)
			}
		}
		p.sidecar.WaitLog(" files=3000 ")
	})
}

// TestSplice: bulk data goes through a pipe, which goes back to the kernel when
// it is idle.
func TestSplice(t *testing.T) {
	inModes(t, func(t *testing.T, p *pod) {
		before := p.pipes(t)
		client, application := p.pair(t, ip4)
		stuff(t, client)
		lab.Eventually(t, "a pipe", func() error {
			if n := p.pipes(t); n != before+2 {
				// The receiver was blocked just when little had come.
				_, err := io.CopyN(io.Discard, application, 1<<20)
				stuff(t, client)
				return errors.Join(err, fmt.Errorf("%d descriptors of pipes, %d before", n, before))
			}
			return nil
		})
		_ = client.Close()
		if _, err := io.Copy(io.Discard, application); err != nil {
			t.Error(err)
		}
		_ = application.Close()
		lab.Eventually(t, "no pipe", func() error {
			if n := p.pipes(t); n != before {
				return fmt.Errorf("%d, %d before", n, before)
			}
			return nil
		})
	})
}

// pipes counts the sidecar's descriptors of pipes.
func (p *pod) pipes(t *testing.T) int {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.sidecar.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range files {
		if to, _ := os.Readlink(f); strings.HasPrefix(to, "pipe:") {
			n++
		}
	}
	return n
}

// TestLog: one line for a connection, at its end, with the keys that dashboards rely
// on.
func TestLog(t *testing.T) {
	keys := []string{"time", "level", "msg", "client", "dst", "source", "bytes_up", "bytes_down", "seconds", "end"}
	for _, mode := range []string{contract.ModeNAT, contract.ModeTProxy} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			p := newPod(t, mode, "--log-format", "json")
			inFamilies(t, func(t *testing.T, f ipFamily) {
				client, application := p.pair(t, f)
				say(t, client, application, "seven b")
				say(t, application, client, "three")
				if out := p.sidecar.Output(); strings.Contains(out, client.LocalAddr().String()) {
					t.Errorf("a line before the end: %s", out)
				}
				client.Close()
				application.Close()
				p.sidecar.WaitLog(client.LocalAddr().String())
				line := lastLine(p.sidecar.Output())
				if d := cmp.Diff(keys, jsonKeys(t, line)); d != "" {
					t.Errorf("%s\n%s", line, d)
				}
				var got map[string]any
				if err := json.Unmarshal([]byte(line), &got); err != nil {
					t.Fatal(err)
				}
				delete(got, "time")
				if s, _ := got["seconds"].(float64); s <= 0 {
					t.Errorf("seconds: %v", got["seconds"])
				}
				delete(got, "seconds")
				want := map[string]any{
					"level": "INFO", "msg": "connection", "end": accesslog.Closed, "bytes_up": 7.0, "bytes_down": 5.0,
					"client": client.LocalAddr().String(), "dst": client.RemoteAddr().String(),
					"source": application.RemoteAddr().String(),
				}
				if d := cmp.Diff(want, got); d != "" {
					t.Error(d)
				}
			})
		})
	}
}

// TestLogDebug: an accepted connection is logged at this level only.
func TestLogDebug(t *testing.T) {
	p := newPod(t, contract.ModeNAT, "--log-level", "debug")
	client, _ := p.pair(t, ip4)
	p.sidecar.WaitLog("level=DEBUG msg=accepted client=" + client.LocalAddr().String())
}

// TestLogKeys: log pipelines can rely on the keys of every line, from the first to
// the last, and on addresses that are strings.
func TestLogKeys(t *testing.T) {
	p := newPod(t, contract.ModeNAT, "--log-format", "json", "--log-level", "debug", "--drain", "1ms")
	client, application := p.pair(t, ip6)
	say(t, client, application, "hello")
	p.wantRefused(t, ip4, contract.ProxyPort)
	if err := p.sidecar.Stop(); err != nil {
		t.Errorf("ended with %v", err)
	}
	out := p.sidecar.Output()
	for _, msg := range []string{"listening", "accepted", "connection", "draining", "drain timeout: resetting remaining connections", "stopped"} {
		if !strings.Contains(out, fmt.Sprintf("%q", msg)) {
			t.Errorf("no line %q in:\n%s", msg, out)
		}
	}
	lab.SnakeCaseKeys(t, out)
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

// jsonKeys are an object's keys in order.
func jsonKeys(t *testing.T, object string) []string {
	t.Helper()
	var keys []string
	dec := json.NewDecoder(strings.NewReader(object))
	for i := 0; ; i++ {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return keys
		}
		if err != nil {
			t.Fatalf("%v in %q", err, object)
		}
		if key, ok := tok.(string); ok && i%2 == 1 {
			keys = append(keys, key)
		}
	}
}

// exchange sends a text to an echo and waits for it.
func exchange(t *testing.T, conn *net.TCPConn, text string) {
	t.Helper()
	say(t, conn, conn, text)
}

// wantRefused connects a client to a port that refuses it.
func (p *pod) wantRefused(t *testing.T, f ipFamily, port int) netip.AddrPort {
	t.Helper()
	return wantRefused(t, p.Client, f.client, addr(f.pod, port))
}

// wantRefused connects and wants a RST, at connect or right after it. It returns
// the address that it connected from.
func wantRefused(t *testing.T, ns *lab.NS, from, to string) netip.AddrPort {
	t.Helper()
	// A connection that is reset early never tells its own address.
	client := netip.AddrPortFrom(netip.MustParseAddr(from), uint16(20_000+refusedPort.Add(1)))
	conn, err := ns.Dial("tcp", client.String(), to)
	if err == nil {
		_, err = io.ReadAll(patient(t, conn))
	}
	if !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("connection to %s: %v, want it refused", to, err)
	}
	return client
}

// refusedPort counts the ports that wantRefused has used, which are below the clients' range.
var refusedPort atomic.Int32

// inModesStarted is inModes with arguments for the sidecar.
func inModesStarted(t *testing.T, args []string, story func(*testing.T, *pod)) {
	for _, mode := range []string{contract.ModeNAT, contract.ModeTProxy} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			story(t, newPod(t, mode, args...))
		})
	}
}

// inModesLimited is inModes with a limit of open files, soft:hard.
func inModesLimited(t *testing.T, limit string, story func(*testing.T, *pod)) {
	lab.Need(t, "prlimit")
	for _, mode := range []string{contract.ModeNAT, contract.ModeTProxy} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			p := prepared(t, mode)
			p.startBehind([]string{"prlimit", "--nofile=" + limit})
			p.waitReady()
			story(t, p)
		})
	}
}

// startBehind starts the sidecar through a program that replaces itself by it.
func (p *pod) startBehind(front []string) {
	p.t.Helper()
	args := slices.Concat(front, sidecarCommand(p.t, "--mode", p.mode))
	p.run(p.user(), args)
	p.sidecar.WaitListen(contract.ProxyPort, contract.AdminPort)
}
