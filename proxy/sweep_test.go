package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/proxy/accesslog"
	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
)

// Two programs for socat's EXEC: one that says nothing and does not end, and one that
// never stops talking.
const (
	mute   = "EXEC:sleep 1000"
	chatty = "SYSTEM:while echo x; do sleep 0.1; done"
)

// TestHalfClosedTimeout: a connection of which one side has finished, and on which
// nothing moves, is reset, also one that came over the unix socket. Others live: one on
// which something moves, and one that is idle but open in both directions.
func TestHalfClosedTimeout(t *testing.T) {
	lab.Need(t, "socat")
	for _, mode := range []string{contract.ModeNAT, contract.ModeTProxy} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			const timeout = "3s"
			front := frontPath(t, contract.ProxyUID, 0)
			p := newPod(t, mode, "--half-closed-timeout", timeout, "--accept-proxy", "unix:"+front, "--accept-proxy-to", "8004")
			p.halfClose(t, timeout, front)
		})
	}
}

// halfClose opens connections of each kind, and wants those that are half-closed reset.
func (p *pod) halfClose(t *testing.T, timeout, front string) {
	idle, idleApp := p.pair(t, ip4)
	listen := func(port int, with string) int {
		p.Pod.Start("socat", "-t3600", fmt.Sprintf("TCP6-LISTEN:%d,ipv6only=0,fork,reuseaddr", port), with).WaitListen(port)
		return port
	}
	muteApp, over, busy := listen(8001, mute), listen(8002, "/dev/null"), listen(8003, chatty)
	talk := p.Client.Start("socat", "-t3600", "/dev/null!!STDOUT", "TCP:"+addr(ip6.pod, busy))
	type end struct{ dst, finished string }
	var ends []end
	for _, f := range []ipFamily{ip4, ip6} {
		p.Client.Start("socat", "-t3600", "/dev/null", "TCP:"+addr(f.pod, muteApp))
		p.Client.Start("socat", "-t3600", mute, "TCP:"+addr(f.pod, over))
		ends = append(ends, end{addr(f.pod, muteApp), "client"}, end{addr(f.pod, over), "application"})
	}
	viaFront := listen(8004, mute)
	p.Pod.StartAs(lab.User{UID: contract.ProxyUID}, "sh", "-c", "printf 'PROXY UNKNOWN\\r\\n' | socat -t3600 - UNIX-CONNECT:"+front)
	ends = append(ends, end{addr(ip4.pod, viaFront), "client"})
	for _, e := range ends {
		lab.Eventually(t, "the connection is reset", func() error {
			for _, l := range p.lines("connection") {
				if l["dst"] != e.dst {
					continue
				}
				if want := "the " + e.finished + " has sent its FIN, and nothing has moved for " + timeout; l["end"] != accesslog.HalfClosed || l["err"] != want {
					t.Errorf("%v, want %s", l, want)
				}
				return nil
			}
			return errors.New("no line")
		})
	}
	lab.Eventually(t, "it has talked for longer than the timeout", func() error {
		if said := strings.Count(talk.Output(), "x"); said < 50 {
			return fmt.Errorf("%d times\n%s", said, p.sidecar.Output())
		}
		return nil
	})
	say(t, idle, idleApp, "idle")
	if n := p.metric(t, `connections_closed_total{end="half-closed timeout"}`); n != 5 {
		t.Errorf("%d are counted, want 5", n)
	}
}

// metric is a value of /metrics, without the names' prefix.
func (p *pod) metric(t *testing.T, name string) int {
	t.Helper()
	_, body := p.admin("/metrics")
	m := regexp.MustCompile(`(?m)^tproxy_proxy_` + regexp.QuoteMeta(name) + ` (\d+)`).FindStringSubmatch(body)
	if m == nil {
		t.Fatalf("no %s in\n%s", name, body)
	}
	n, _ := strconv.Atoi(m[1])
	return n
}

// TestLogOpen: a connection that lives for a while has a line then, and one at its end.
func TestLogOpen(t *testing.T) {
	const least = 2.0 // seconds
	inModesStarted(t, []string{"--log-open", fmt.Sprintf("%vs", least)}, func(t *testing.T, p *pod) {
		inFamilies(t, func(t *testing.T, f ipFamily) {
			told := func(client string) (n int) {
				for _, l := range p.lines("connection is open") {
					if l["client"] == client {
						n++
					}
				}
				return n
			}
			client, application := p.pair(t, f)
			say(t, client, application, "hello")
			short, other := p.pair(t, f)
			say(t, short, other, "hello")
			move(t, short, other, 0)
			move(t, other, short, 0)
			lab.Eventually(t, "the line", func() error {
				if told(client.LocalAddr().String()) != 1 {
					return errors.New(p.sidecar.Output())
				}
				return nil
			})
			say(t, application, client, "still here")
			move(t, client, application, 0)
			move(t, application, client, 0)
			p.wantEnd(t, sock.AddrPort(client.LocalAddr()), accesslog.Closed)
			if n := told(client.LocalAddr().String()); n != 1 {
				t.Errorf("%d lines", n)
			}
			line := p.wantEnd(t, sock.AddrPort(short.LocalAddr()), accesslog.Closed)
			if seconds, err := strconv.ParseFloat(line["seconds"], 64); err != nil || seconds < least && told(line["client"]) > 0 {
				t.Errorf("a short one has a line: %v, %v", line, err)
			}
		})
	})
}

// closeLast closes a connection that the other end has closed or reset.
func closeLast(c net.Conn) {
	_, _ = io.Copy(io.Discard, c)
	c.Close()
}

// TestSilent: a connection without a byte from the client, as of a tcpSocket probe, is
// counted, and logged at debug level only.
func TestSilent(t *testing.T) {
	lab.Need(t, "nc")
	inModes(t, func(t *testing.T, p *pod) {
		a := p.listen(t, 0)
		greet := func(f ipFamily) { // an application that speaks first, and a client that does not
			c := p.dial(t, f, a.port)
			server := a.accept(t)
			say(t, server, c, "220 ready\r\n")
			_ = c.SetLinger(0)
			c.Close()
			closeLast(server)
		}
		probe := func(f ipFamily) {
			p.Client.Run("nc", "-z", f.pod, fmt.Sprint(a.port))
			closeLast(a.accept(t))
		}
		silent := func() int { return p.metric(t, `connections_closed_total{end="client silent"}`) }
		for i, f := range []ipFamily{ip4, ip6} {
			probe(f)
			greet(f)
			lab.Eventually(t, "they are counted", func() error {
				if n := silent(); n != 2*(i+1) {
					return fmt.Errorf("%d", n)
				}
				return nil
			})
		}
		if lines := p.lines("connection"); len(lines) > 0 {
			t.Errorf("they are logged: %v", lines)
		}
		if out, err := p.command("log-level", "debug"); err != nil {
			t.Fatal(out, err)
		}
		probe(ip4)
		p.sidecar.WaitLog(`end="client silent"`)
		if l := p.lines("connection"); len(l) != 1 || l[0]["level"] != "DEBUG" {
			t.Errorf("%v", l)
		}
	})
}
