package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/proxy/accesslog"
	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
)

// handOver has the sidecar hand over, and waits until its successor has taken over.
func (p *pod) handOver(t *testing.T) {
	t.Helper()
	before := len(p.lines("took over"))
	p.sidecar.Signal(unix.SIGUSR2)
	lab.Eventually(t, "the successor takes over", func() error {
		if bad := p.lines("not handed over: this program goes on with every connection"); len(bad) > 0 {
			t.Fatal(bad)
		}
		if len(p.lines("took over")) == before {
			return errors.New("it has not")
		}
		return nil
	})
}

// TestHandOver: connections in every state go on in the program that takes over, twice in
// a row; the process, its readiness and its counters, too.
func TestHandOver(t *testing.T) {
	inModesStarted(t, append(atDebug, "--loops", "3"), func(t *testing.T, p *pod) {
		p.wantAlwaysReady(t)
		inFamilies(t, func(t *testing.T, f ipFamily) {
			before := p.counters(t)

			idle, idleApp := p.pair(t, f)
			say(t, idle, idleApp, "before")
			ended, endedApp := p.pair(t, f) // the client has sent its FIN
			move(t, ended, endedApp, 1<<20)
			left, leftApp := p.pair(t, f) // the application has
			move(t, leftApp, left, 1<<20)
			slow, slowApp := p.pair(t, f) // reads nothing: the sidecar holds bytes
			sent := stuff(t, slowApp)
			busy, busyApp := p.pair(t, f)
			both := make(chan bool)
			go func() {
				defer close(both)
				move(t, busyApp, busy, 64<<20)
			}()
			t.Cleanup(func() { <-both })

			for range 2 {
				p.handOver(t)
				for _, c := range []*net.TCPConn{idle, idleApp, ended, endedApp, left, leftApp, slow, slowApp, busy, busyApp} {
					patient(t, c)
				}
				say(t, idle, idleApp, "still here")
				say(t, idleApp, idle, "so am I")
				p.wantSource(t, idle, idleApp)
			}

			move(t, busy, busyApp, 16<<20)
			<-both
			got := sha256.New()
			if n, err := io.CopyN(got, slow, int64(sent.n)); err != nil || !bytes.Equal(got.Sum(nil), sent.sum) {
				t.Errorf("got %d bytes of %d (%v), or others", n, sent.n, err)
			}
			say(t, slow, slowApp, "done")
			move(t, endedApp, ended, 1<<20)
			move(t, left, leftApp, 1<<20)
			for _, c := range []*net.TCPConn{ended, left, busy} {
				line := p.wantEnd(t, sock.AddrPort(c.LocalAddr()), accesslog.Closed)
				if line["bytes_up"] == "0" || line["bytes_down"] == "0" {
					t.Errorf("bytes are lost count of: %v", line)
				}
			}
			next, nextApp := p.pair(t, f)
			say(t, next, nextApp, "a new one")
			p.wantSource(t, next, nextApp)
			sock.Reset(next)
			wantReset(t, nextApp)

			after := p.counters(t)
			for name, n := range before {
				if after[name] < n && !strings.Contains(name, "active") && !strings.Contains(name, "half_closed") && !strings.Contains(name, "memory") {
					t.Errorf("%s went from %v to %v", name, n, after[name])
				}
			}
			if n := after["tproxy_proxy_connections_accepted_total"] - before["tproxy_proxy_connections_accepted_total"]; n != 6 {
				t.Errorf("%v connections are counted, want 6", n)
			}
		})
		p.wantNoCapability(t)
		if n := len(p.lines("listening")); n != 5 {
			t.Errorf("%d programs have served, want 5", n)
		}
	})
}

// wantAlwaysReady asks for readiness until the test ends. No answer says that it is not
// there, and nobody is refused; a connection whose request is late goes with the program
// that has accepted it.
func (p *pod) wantAlwaysReady(t *testing.T) {
	stop, done := make(chan bool), make(chan bool)
	go func() {
		defer close(done)
		answers := map[string]int{}
		for {
			select {
			case <-stop:
				t.Logf("/readyz answered %v", answers)
				return
			default:
			}
			status, body := p.admin("/readyz")
			if answers[status]++; status != "200" && status != "" {
				t.Errorf("/readyz answers %s: %s", status, body)
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-done
	})
}

func (p *pod) wantNoCapability(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.sidecar.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapAmb"} {
		if !strings.Contains(string(text), set+":\t0000000000000000\n") {
			t.Errorf("the sidecar has a capability:\n%s", text)
		}
	}
}

// TestHandOverFirst: as the first process of its namespace, as in a container, it gets the
// signals that nothing else would get it, before and after.
func TestHandOverFirst(t *testing.T) {
	lab.Need(t, "unshare")
	p := prepared(t, contract.ModeNAT)
	args := append([]string{"--pid", "--fork", "--kill-child", "--mount-proc"}, p.user().Args(sidecarCommand(t, "--mode", p.mode, "--drain", "10m")...)...)
	p.sidecar = p.Pod.Start(append([]string{"unshare"}, args...)...).WaitListen(contract.ProxyPort, contract.AdminPort)
	p.waitReady()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", p.sidecar.Pid()))
	first, aerr := strconv.Atoi(strings.TrimSpace(string(text)))
	if err := errors.Join(err, aerr); err != nil {
		t.Fatal(err)
	}
	client, application := p.pair(t, ip4)
	for n := range 3 {
		if err := unix.Kill(first, unix.SIGUSR2); err != nil {
			t.Fatal(err)
		}
		lab.Eventually(t, "it takes over", func() error {
			if len(p.lines("took over")) != n+1 {
				return errors.New("not yet")
			}
			return nil
		})
		say(t, client, application, "still here")
	}
	if err := unix.Kill(first, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.sidecar.WaitLog("draining")
	move(t, client, application, 1<<20)
	move(t, application, client, 1<<20)
	if err := p.sidecar.Wait(); err != nil {
		t.Errorf("ended with %v", err)
	}
}

// TestHandOverAndEnd: SIGTERM is not missed, whichever program gets it.
func TestHandOverAndEnd(t *testing.T) {
	for _, when := range []string{"handing over", "took over", "at once"} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			p := newPod(t, contract.ModeNAT, "--drain", "0s")
			client, application := p.pair(t, ip4)
			say(t, client, application, "before")
			p.sidecar.Signal(unix.SIGUSR2)
			if when != "at once" {
				p.sidecar.WaitLog(when)
			}
			if err := p.sidecar.Stop(); err != nil {
				t.Errorf("ended with %v", err)
			}
			wantReset(t, client)
			wantReset(t, application)
			p.wantEnd(t, sock.AddrPort(client.LocalAddr()), accesslog.Drained)
		})
	}
}

// counters are the sidecar's metrics, by name: all of a family added up.
func (p *pod) counters(t *testing.T) map[string]float64 {
	t.Helper()
	var text string
	lab.Eventually(t, "metrics", func() (err error) {
		status, body := p.admin("/metrics")
		if text = body; status != "200" {
			err = fmt.Errorf("%s %s", status, body)
		}
		return err
	})
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for name, f := range families {
		for _, m := range f.Metric {
			all[name] += m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return all
}

// TestHandOverClients: real clients do not notice: a download of curl's, and socat with
// one direction closed.
func TestHandOverClients(t *testing.T) {
	lab.Need(t, "curl", "socat")
	inModes(t, func(t *testing.T, p *pod) {
		dir := t.TempDir()
		data := random(t, lab.Count(24<<20))
		if err := os.WriteFile(filepath.Join(dir, "bulk"), data, 0o644); err != nil {
			t.Fatal(err)
		}
		inFamilies(t, func(t *testing.T, f ipFamily) {
			files := p.listen(t, 0)
			go func() { _ = http.Serve(files.Listener, http.FileServer(http.Dir(dir))) }()
			out := filepath.Join(dir, f.name)
			curl := p.Client.Start("curl", "-sSg", "--limit-rate", strconv.Itoa(lab.Count(12<<20)), "-o", out, "http://"+addr(f.pod, files.port)+"/bulk")

			halves := p.listen(t, 0)
			cmd := exec.Command("socat", "-t", "60", "STDIO", "TCP:"+addr(f.pod, halves.port))
			cmd.Stdin = bytes.NewReader(data[:1<<20])
			socat := p.Client.StartCmd(cmd)
			application := halves.accept(t)
			if got, err := io.ReadAll(application); err != nil || !bytes.Equal(got, data[:1<<20]) {
				t.Errorf("socat's %d bytes arrive as %d: %v", 1<<20, len(got), err)
			}
			for range 3 {
				p.handOver(t)
			}
			if _, err := io.WriteString(application, "the answer\n"); err != nil {
				t.Error(err)
			}
			socat.WaitLog("the answer")
			application.Close()
			if err := socat.Wait(); err != nil {
				t.Errorf("socat: %v", err)
			}
			if err := curl.Wait(); err != nil {
				t.Errorf("curl: %v: %s", err, curl.Output())
			}
			if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, data) {
				t.Errorf("curl got %d bytes of %d, or others: %v", len(got), len(data), err)
			}
		})
	})
}

// TestHandOverMany: ten thousand idle connections and their listener's queue.
func TestHandOverMany(t *testing.T) {
	many := manyPairs(t)
	for _, mode := range []string{contract.ModeNAT, contract.ModeTProxy} {
		t.Run(mode, func(t *testing.T) { // one after the other, for the memory
			p := newPod(t, mode)
			clients, applications := p.pairs(t, many)
			p.handOver(t)
			p.handOver(t)
			for _, line := range p.lines("took over") {
				t.Logf("%s connections paused for %s", line["connections"], line["paused"])
				if line["connections"] != strconv.Itoa(many) {
					t.Errorf("took over %s connections, want %d", line["connections"], many)
				}
			}
			p.wantAllTalk(t, clients, applications)
			if _, body := p.admin("/readyz"); !strings.Contains(body, fmt.Sprintf("connections: %d of", many)) {
				t.Errorf("want %d connections: %s", many, body)
			}
		})
	}
}

// manyPairs is ten thousand, or as many as the limit of open files allows to a single
// source of the sidecar, and to the test.
func manyPairs(t *testing.T) int {
	t.Helper()
	lab.Need(t)
	files, err := raiseNoFile()
	if err != nil {
		t.Fatal(err)
	}
	limit := connsFor(files)
	return min(lab.Count(10_000), limit-int(reservedOf(int64(limit))), int(files)/2-100)
}

// pairs opens connections, of both families in turn.
func (p *pod) pairs(t *testing.T, n int) (clients, applications []*net.TCPConn) {
	t.Helper()
	for _, ns := range []*lab.NS{p.Client, p.Pod} {
		ns.Sysctl("net.ipv4.tcp_rmem", "4096 16384 65536")
		ns.Sysctl("net.ipv4.tcp_wmem", "4096 16384 65536")
	}
	a := p.listen(t, 0)
	for i := range n {
		clients = append(clients, p.dial(t, []ipFamily{ip4, ip6}[i%2], a.port))
		applications = append(applications, a.accept(t))
	}
	return clients, applications
}

// wantAllTalk sends a text of its own on each connection, both ways.
func (p *pod) wantAllTalk(t *testing.T, clients, applications []*net.TCPConn) {
	t.Helper()
	for i, c := range clients {
		text := fmt.Sprintf("connection %d", i)
		patient(t, c)
		patient(t, applications[i])
		say(t, c, applications[i], text)
		say(t, applications[i], c, text)
		p.wantSource(t, c, applications[i])
	}
}

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
		{"one that is gone after the check", "exec /", script(`rm "$0"; echo takes over`)},
		{"no executable", "exec format error", func(path string) error { return os.WriteFile(path, []byte("nonsense"), 0o755) }},
		{
			"a sidecar of other settings", "--mode is tproxy, and the sidecar to take over from has nat",
			script("exec " + exe + " " + childArg + " --mode tproxy"),
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

// TestHandOverBeginning: a connection that is being dialled, one whose PROXY header has
// not come, and one on the unix socket go on where they were.
func TestHandOverBeginning(t *testing.T) {
	for _, mode := range []string{contract.ModeNAT, contract.ModeTProxy} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			p := prepared(t, mode)
			front := frontPath(t, contract.ProxyUID, contract.ProxyUID)
			p.start("--drain", "0s", "--proxy-protocol-from", lab.OtherClient4+"/32", "--accept-proxy", "unix:"+front)
			p.waitReady()
			a := p.listen(t, 0)

			// A queue of one, taken by a connection of the pod itself.
			full := p.listen(t, 0)
			raw, err := full.Listener.(*net.TCPListener).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			if err := raw.Control(func(fd uintptr) { _ = unix.Listen(int(fd), 0) }); err != nil {
				t.Fatal(err)
			}
			if _, err := p.Pod.Dial("tcp", "", addr(ip4.lo, full.port)); err != nil {
				t.Fatal(err)
			}
			dialled := p.dial(t, ip4, full.port)
			headed := p.dialFrom(t, lab.OtherClient4, ip4, a.port)
			header := "PROXY TCP4 203.0.113.7 192.0.2.1 4321 80\r\n"
			if _, err := io.WriteString(headed, header[:20]); err != nil {
				t.Fatal(err)
			}
			lab.Eventually(t, "both are accepted", func() error {
				if _, body := p.admin("/readyz"); !strings.Contains(body, "connections: 2 of") {
					return errors.New(body)
				}
				return nil
			})

			p.handOver(t)
			p.handOver(t)

			if _, err := io.WriteString(headed, header[20:]+"hello"); err != nil {
				t.Fatal(err)
			}
			application := a.accept(t)
			if from := application.RemoteAddr().String(); from != "203.0.113.7:4321" {
				t.Errorf("the application sees %s", from)
			}
			say(t, application, headed, "hello, too")
			full.accept(t).Close()
			application = full.accept(t)
			say(t, dialled, application, "at last")
			p.wantSource(t, dialled, application)

			if _, err := os.Stat(front); err != nil {
				t.Error(err)
			}
			p.sidecar.Signal(syscall.SIGTERM)
			if err := p.sidecar.WaitLog("draining").Wait(); err != nil {
				_ = err
			}
			if _, err := os.Stat(front); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the socket is still there: %v", err)
			}
		})
	}
}
