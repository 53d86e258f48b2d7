package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/proxy/probe"
	"github.com/tproxy-cni/tproxy-cni/proxy/report"
	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
)

// document is what `status -o json` prints. Every field is one of report.Document.
func (p *pod) document(t *testing.T, args ...string) (d report.Document) {
	t.Helper()
	out, err := p.command(append([]string{"status", "-o", "json"}, args...)...)
	dec := json.NewDecoder(strings.NewReader(out))
	dec.DisallowUnknownFields()
	if err = errors.Join(err, dec.Decode(&d)); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	return d
}

// find is the connection of a client.
func find(d report.Document, client netip.AddrPort) (c report.Connection, err error) {
	for _, c := range d.Live.List {
		if c.Client == client {
			return c, nil
		}
	}
	return c, fmt.Errorf("%s is not in the list: %+v", client, d.Live)
}

// TestStatusCommand: the command shows a real connection in each of its states, the bytes that
// it has moved so far, and its end.
func TestStatusCommand(t *testing.T) {
	inModes(t, func(t *testing.T, p *pod) {
		inFamilies(t, func(t *testing.T, f ipFamily) {
			before := p.document(t)
			client, application := p.pair(t, f)
			from := sock.AddrPort(client.LocalAddr())
			await := func(what string, check func(report.Connection) bool) {
				t.Helper()
				lab.Eventually(t, what, func() error {
					c, err := find(p.document(t), from)
					if err == nil && !check(c) {
						err = fmt.Errorf("%+v", c)
					}
					return err
				})
			}
			say(t, client, application, "hello")
			await("relaying, 5 bytes up", func(c report.Connection) bool {
				return c.State == report.Relaying && c.BlockedBy == "" && c.BytesUp == 5 && c.BytesDown == 0 && c.AgeSeconds > 0 &&
					c.Destination == sock.AddrPort(client.RemoteAddr()) && c.Source == sock.AddrPort(application.RemoteAddr())
			})
			if err := application.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			await("half closed", func(c report.Connection) bool { return c.State == report.HalfClosedByApplication })
			client.Close()
			lab.Eventually(t, "the end", func() error {
				d := p.document(t)
				if _, err := find(d, from); err == nil || d.Counters.Closed["closed"] != before.Counters.Closed["closed"]+1 {
					return fmt.Errorf("%+v", d)
				}
				return nil
			})
		})
	})
}

// TestStatusStates: a client that does not read blocks the application, and the other
// way round; a client may half-close; and an application whose queue is full lets the
// sidecar wait.
func TestStatusStates(t *testing.T) {
	inModes(t, func(t *testing.T, p *pod) {
		for i, blocker := range []string{"client", "application"} {
			client, application := p.pair(t, []ipFamily{ip4, ip6}[i])
			from, sender := sock.AddrPort(client.LocalAddr()), []*net.TCPConn{application, client}[i]
			go func() {
				for err := error(nil); err == nil; {
					_, err = sender.Write(make([]byte, 64<<10))
				}
			}()
			lab.Eventually(t, "blocked by "+blocker, func() error {
				d := p.document(t)
				c, err := find(d, from)
				if err == nil && c.BlockedBy != blocker {
					err = fmt.Errorf("%+v", c)
				}
				return err
			})
			sock.Reset(client)
		}
		for i, want := range []string{report.HalfClosedByClient, report.Connecting} {
			f := []ipFamily{ip6, ip4}[i]
			p.Pod.Sysctl("net.core.somaxconn", "0") // the queue has one place
			a := p.listen(t, 0)
			p.dial(t, f, a.port)
			client := p.dial(t, f, a.port)
			if want == report.HalfClosedByClient {
				a.accept(t)
				a.accept(t)
				if err := client.CloseWrite(); err != nil {
					t.Fatal(err)
				}
			}
			lab.Eventually(t, want, func() error {
				c, err := find(p.document(t, "--sort", "age"), sock.AddrPort(client.LocalAddr()))
				if err == nil && c.State != want {
					err = fmt.Errorf("%+v", c)
				}
				return err
			})
		}
	})
}

// TestStatusDraining: the command answers while the sidecar drains, also when loops have
// ended.
func TestStatusDraining(t *testing.T) {
	p := newPod(t, contract.ModeNAT, "--loops", "3", "--drain", "10m")
	client, application := p.pair(t, ip4)
	say(t, client, application, "hello")
	p.sidecar.Signal(syscall.SIGTERM)
	lab.Eventually(t, "draining", func() error {
		d := p.document(t)
		_, err := find(d, sock.AddrPort(client.LocalAddr()))
		if err == nil && (d.Readiness.Reason != string(probe.Draining) || d.Loops != 3 || d.Live.Incomplete) {
			err = fmt.Errorf("%+v", d)
		}
		return err
	})
}

// TestStatusSurroundings: readiness, accept queues, routing and sysctls are shown, as
// text and as JSON, in a pod that is prepared and in one that the plugin never saw.
func TestStatusSurroundings(t *testing.T) {
	p := bare(t, contract.ModeNAT)
	p.start()
	p.wantNotReady(t, "has not prepared")
	out, err := p.command("status")
	for _, want := range []string{"\u00d7 not ready", "unprepared", "to do", "\u00d7 IPv4:", "\u00d7 IPv6:", "tcp_fwmark_accept = 0, want 1"} {
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("%v, no %q in\n%s", err, want, out)
		}
	}
	p.apply(p.config())
	p.waitReady()
	a := p.listen(t, 8080)
	for i := range 3 {
		p.dial(t, []ipFamily{ip4, ip6}[i%2], a.port) // is never accepted
	}
	lab.Eventually(t, "connections wait in the application's queue", func() error {
		d := p.document(t, "--sort", "age")
		for _, q := range d.Pod.Queues {
			if q.Port == 8080 && q.Length == 3 && d.Readiness.Ready && d.Readiness.Checked != nil && len(d.Live.List) == 3 {
				return nil
			}
		}
		return fmt.Errorf("%+v", d)
	})
	out, err = p.command("status", "--sort", "age")
	for _, want := range []string{
		"tproxy-proxy ", "nat mode on [::]:5000, uid 7089", "\u221a ready, checked", "relaying 3", "3 of at most", "address and port 3",
		":8080   3 of ", ":5001   0 of", "the sidecar's admin port", "\u221a IPv4: local 192.0.2.1 dev lo table 29808", "\u221a IPv6: ",
		"fwmark 0x1000/0x1000 lookup 29808", "\u221a net.ipv4.tcp_fwmark_accept = 1", "the oldest first, 3 of 3", ":8080  same     0 B", lab.Client4 + ":", "[" + lab.Client6 + "]:",
	} {
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("%v, no %q in\n%s", err, want, out)
		}
	}
	if strings.Contains(out, "\x1b") {
		t.Error("colours where there is no terminal")
	}
	t.Log(out)
}

// TestStatusNobody: without a sidecar, and with another program in its place, the
// command says so.
func TestStatusNobody(t *testing.T) {
	lab.Need(t, "socat")
	p := bare(t, contract.ModeNAT)
	for i, tt := range []struct{ says, want string }{
		{"", "the sidecar does not answer on 127.0.0.1:5001: "},
		{"HTTP/1.0 404 Not Found\r\n\r\nn\x1b[2Jone", `the sidecar answers 404: n\x1b[2Jone`},
		{"HTTP/1.0 200 OK\r\n\r\n{}", `what answers is not the sidecar: it says "{}"`},
		{"SSH-2.0\r\n", "is not the sidecar: malformed HTTP response"},
		{"HTTP/1.0 200 OK\r\n\r\n" + strings.Repeat("[", 8<<20), "status: "}, // is not read to its end
	} {
		var server *lab.Proc
		if tt.says != "" {
			// It reads the request, whose end is an empty line, before it answers.
			file := filepath.Join(work, fmt.Sprintf("says%d", i))
			script := fmt.Sprintf("#!/bin/sh\nsed '/^.$/q' >/dev/null\ncat %s\n", file)
			err := errors.Join(os.WriteFile(file, []byte(tt.says), 0o644), os.WriteFile(file+".sh", []byte(script), 0o755))
			if err != nil {
				t.Fatal(err)
			}
			server = p.Pod.Start("socat", "TCP-LISTEN:5001,reuseaddr,fork", "EXEC:"+file+".sh").WaitListen(5001)
		}
		for _, args := range [][]string{nil, {"-o", "json"}} {
			out, err := p.command(append([]string{"status"}, args...)...)
			if err == nil || err.Error() != "exit status 1" || !strings.Contains(out, tt.want) {
				t.Errorf("%.60q: %v, %q, want %q", tt.says, err, out, tt.want)
			}
		}
		if server != nil {
			server.Kill()
		}
	}
	var out, faults bytes.Buffer
	if status := run([]string{"status", "--sort", "name", "x"}, os.Getenv, &out, &faults); status != 2 || !strings.Contains(faults.String(), "want bytes or age") {
		t.Errorf("status %d: %s", status, faults.String())
	}
}
