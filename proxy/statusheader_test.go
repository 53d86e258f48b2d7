package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/proxy/report"
	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
)

// TestStatusHeaders: connections whose PROXY headers do not come, from a balancer and on
// the unix socket, and what is shown of them then.
func TestStatusHeaders(t *testing.T) {
	dir, err := os.MkdirTemp(work, "")
	if err = errors.Join(err, os.Chown(dir, contract.ProxyUID, contract.ProxyUID)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "front.sock")
	p := newPod(t, contract.ModeNAT, "--proxy-protocol-from", lab.Client4+"/32", "--accept-proxy", "unix:"+path)
	a := p.listen(t, 0)
	balancer := p.dial(t, ip4, a.port)
	peer := sock.AddrPort(balancer.LocalAddr())
	front := p.front(t, contract.ProxyUID, path)
	lab.Eventually(t, "two wait", func() error {
		d := p.document(t)
		c, err := find(d, peer)
		f, ferr := find(d, netip.AddrPort{})
		if err = errors.Join(err, ferr); err == nil && (d.Live.States.AwaitingHeader != 2 || d.Live.States.Connecting != 0 ||
			c.Via != peer.String() || c.State != report.AwaitingHeader || c.Destination != sock.AddrPort(balancer.RemoteAddr()) ||
			f.Via != report.OnSocket || f.State != report.AwaitingHeader || f.Destination.IsValid()) {
			err = fmt.Errorf("%+v", d.Live)
		}
		return err
	})
	out, err := p.command("status")
	for _, want := range []string{"awaiting a PROXY header 2", fmt.Sprintf(":%d  -", a.port), "via unix  ", "awaiting header\n"} {
		if err != nil || !strings.Contains(out, want) || strings.Contains(out, "invalid") {
			t.Errorf("%v, no %q in\n%s", err, want, out)
		}
	}
	dst := netip.AddrPortFrom(netip.MustParseAddr(lab.Pod4), uint16(a.port))
	client := netip.AddrPortFrom(named4, 34101)
	send(t, front, fmt.Sprintf("PROXY TCP4 %s %s %d %d\r\n", client.Addr(), dst.Addr(), client.Port(), dst.Port()))
	a.accept(t)
	lab.Eventually(t, "the client is known", func() error {
		c, err := find(p.document(t), client)
		if err == nil && (c.Via != report.OnSocket || c.State != report.Relaying || c.Destination != dst) {
			err = fmt.Errorf("%+v", c)
		}
		return err
	})
}
