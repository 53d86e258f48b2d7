package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/proxy/accesslog"
	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
)

// holder starts tproxy-proxy hold in the pod, and returns it and its flag for a sidecar.
func (p *pod) holder(t *testing.T, args ...string) (h *lab.Proc, flag string) {
	t.Helper()
	flag = "--hold=unix:" + filepath.Join(openDir(t), "hold.sock")
	h = p.Pod.StartAs(lab.User{UID: contract.ProxyUID, NoNewPrivs: true}, sidecarCommand(t, append([]string{"hold", flag}, args...)...)...)
	return h.WaitLog("holding"), flag
}

// TestHold: connections outlive the end of the sidecar's process and the start of another,
// twice, with the bytes that it held; clients that come in between wait.
func TestHold(t *testing.T) {
	for _, mode := range []string{contract.ModeNAT, contract.ModeTProxy} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			p := prepared(t, mode)
			h, flag := p.holder(t)
			h.Signal(unix.SIGUSR2) // as by killall, which means the sidecar: a Go program does not mind
			before := openFiles(t, h.Pid())
			path := filepath.Join(openDir(t), "front.sock")
			front := "--accept-proxy=unix:" + path
			p.start(flag, front)
			p.waitReady()
			a := p.listen(t, 0)
			fronted := p.front(t, contract.ProxyUID, path)
			send(t, fronted, fmt.Sprintf("PROXY TCP4 203.0.113.8 192.0.2.1 4322 %d\r\n", a.port))
			frontedApp := a.accept(t)
			inFamilies(t, func(t *testing.T, f ipFamily) {
				idle, idleApp := p.pair(t, f)
				say(t, idle, idleApp, "before")
				ended, endedApp := p.pair(t, f)
				move(t, ended, endedApp, 1<<20)
				slow, slowApp := p.pair(t, f)
				sent := stuff(t, slowApp)
				busy, busyApp := p.pair(t, f)
				both := make(chan bool)
				go func() {
					defer close(both)
					move(t, busyApp, busy, 64<<20)
				}()
				t.Cleanup(func() { <-both })
				accepted := p.counters(t)["tproxy_proxy_connections_accepted_total"]
				var late []*net.TCPConn
				a := p.listen(t, 0)
				for range 2 {
					if err := p.sidecar.Stop(); err != nil {
						t.Errorf("ended with %v", err)
					}
					if !strings.Contains(p.sidecar.Output(), "stopped: the holder has all connections") {
						t.Errorf("the holder has not got them:\n%s", p.sidecar.Output())
					}
					late = append(late, p.dial(t, f, a.port))
					p.startAs(p.user(), flag, front)
					p.sidecar.WaitLog("took over")
					for _, c := range []*net.TCPConn{idle, idleApp, ended, endedApp, slow, slowApp, busy, busyApp} {
						patient(t, c)
					}
					say(t, idle, idleApp, "still here")
					say(t, idleApp, idle, "so am I")
				}
				for _, c := range late {
					application := a.accept(t)
					say(t, patient(t, c), application, "I have waited")
					p.wantSource(t, c, application)
				}
				p.handOver(t) // the two kinds go together
				<-both
				move(t, busy, busyApp, 1<<20)
				got := sha256.New()
				if n, err := io.CopyN(got, slow, int64(sent.n)); err != nil || !bytes.Equal(got.Sum(nil), sent.sum) {
					t.Errorf("got %d bytes of %d (%v), or others", n, sent.n, err)
				}
				move(t, endedApp, ended, 1<<20)
				p.wantEnd(t, sock.AddrPort(ended.LocalAddr()), accesslog.Closed)
				if n := p.counters(t)["tproxy_proxy_connections_accepted_total"]; n != accepted+2 {
					t.Errorf("%v accepted, want %v and 2", n, accepted)
				}
			})
			p.wantNoCapability(t)
			_ = fronted.SetDeadline(time.Now().Add(lab.Patience))
			send(t, fronted, "still here")
			receive(t, patient(t, frontedApp), "still here")
			fronted.Close()
			frontedApp.Close()
			lab.Eventually(t, "the holder has given all", func() error {
				if now := openFiles(t, h.Pid()); now > before {
					return fmt.Errorf("it has %d descriptors, before %d", now, before)
				}
				return nil
			})

			// When the pod ends, the holder goes first: then the sidecar drains.
			client, application := p.pair(t, ip4)
			say(t, client, application, "hello")
			if err := h.Stop(); err != nil {
				t.Errorf("the holder ended with %v", err)
			}
			p.sidecar.Signal(unix.SIGTERM)
			p.sidecar.WaitLog("no holder any more: draining")
			move(t, client, application, 1<<20)
			move(t, application, client, 1<<20)
			p.wantEnd(t, sock.AddrPort(client.LocalAddr()), accesslog.Closed)
		})
	}
}

// TestHoldTime: what no sidecar fetches is reset, and its listener is closed.
func TestHoldTime(t *testing.T) {
	for _, tt := range []struct {
		name, log string
		args      []string
		end       func(h *lab.Proc)
	}{
		{"too late", "connections are reset that no sidecar has fetched", []string{"--hold-time", "10ms"}, func(*lab.Proc) {}},
		{"the holder ends", "connections are reset: the holder ends", nil, func(h *lab.Proc) { h.Signal(unix.SIGTERM) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := prepared(t, contract.ModeNAT)
			h, flag := p.holder(t, tt.args...)
			p.start(flag)
			p.waitReady()
			client, application := p.pair(t, ip4)
			say(t, client, application, "before")
			if err := p.sidecar.Stop(); err != nil {
				t.Error(err)
			}
			h.WaitLog("taken from a sidecar")
			tt.end(h)
			h.WaitLog(tt.log)
			wantReset(t, client)
			wantReset(t, application)
			p.wantRefused(t, ip4, p.listen(t, 0).port)
			p.start(flag)
			p.waitReady()
			p.pair(t, ip4)
		})
	}
}

// TestHoldRefused: a sidecar that cannot go on with what is held says why, and leaves it
// to one that can. A process of another user gets nothing.
func TestHoldRefused(t *testing.T) {
	p := prepared(t, contract.ModeNAT)
	h, flag := p.holder(t)
	p.start(flag)
	p.waitReady()
	client, application := p.pair(t, ip4)
	say(t, client, application, "before")
	if err := p.sidecar.Stop(); err != nil {
		t.Error(err)
	}
	try := func(u lab.User, says string, args ...string) {
		t.Helper()
		out, err := p.Pod.TryAs(u, sidecarCommand(t, append(args, flag)...)...)
		if err == nil || !strings.Contains(out, says) {
			t.Errorf("%v: %s, want %q", err, out, says)
		}
	}
	try(p.user(), "--mode is tproxy, and the sidecar to take over from has nat", "--mode", "tproxy")
	try(lab.User{UID: 4242}, "permission denied", "--mode", "nat")
	try(lab.User{UID: 4242, Caps: []string{"dac_override"}}, "descriptors are for uid 4242 only", "--mode", "nat")
	h.WaitLog("a sidecar and this holder do not understand each other")
	p.start(flag)
	p.sidecar.WaitLog("took over")
	say(t, client, application, "after")
}

// TestHoldStuck: a sidecar whose holder takes nothing drains, and does not wait for it.
func TestHoldStuck(t *testing.T) {
	p := prepared(t, contract.ModeTProxy)
	h, flag := p.holder(t)
	p.start(flag)
	p.waitReady()
	client, application := p.pair(t, ip6)
	h.Halt()
	p.sidecar.Signal(unix.SIGTERM)
	p.sidecar.WaitLog("the holder does not take the connections: draining")
	move(t, client, application, 1<<20)
	move(t, application, client, 1<<20)
	if err := p.sidecar.Wait(); err != nil {
		t.Errorf("ended with %v", err)
	}
	h.Signal(unix.SIGCONT)
	h.WaitLog("a sidecar and this holder do not understand each other")
	p.start(flag)
	p.waitReady()
}

// TestHoldMany: as TestHandOverMany, across two processes.
func TestHoldMany(t *testing.T) {
	many := manyPairs(t)
	p := prepared(t, contract.ModeNAT)
	_, flag := p.holder(t)
	p.start(flag)
	p.waitReady()
	clients, applications := p.pairs(t, many)
	if err := p.sidecar.Stop(); err != nil {
		t.Error(err)
	}
	p.start(flag)
	p.sidecar.WaitLog(fmt.Sprintf("connections=%d", many))
	t.Logf("%d connections paused for %s", many, p.lines("took over")[0]["paused"])
	p.wantAllTalk(t, clients, applications)
}
