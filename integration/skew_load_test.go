package integration

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// load makes 200 connections a second over each of the pod's families with h2load, and
// meanwhile has some echo without a pause. The returned function reports whether all have
// ended, and at their end whether all went well. They go on until it is told that it is
// enough.
func (p *pod) load(t *testing.T) (done func(enough bool) bool) {
	t.Helper()
	const echo, rate, seconds = 7000, 200, 5
	p.Pod.StartAs(app, "socat", "TCP6-LISTEN:7000,ipv6only=0,fork,reuseaddr", "EXEC:cat").WaitListen(echo)
	stop := make(chan struct{})
	end := sync.OnceFunc(func() { close(stop) })
	t.Cleanup(end)
	var held errgroup.Group
	for _, f := range p.fams() {
		for range 4 {
			conn := p.dial(t, f, echo)
			held.Go(func() error { return echoes(conn, stop) })
		}
	}
	count := fmt.Sprint(lab.Count(rate * seconds))
	round := func() (clients []*lab.Proc) {
		for _, f := range p.fams() {
			clients = append(clients, p.Client.Start("h2load", "--h1", "-n", count, "-c", count, "-r", fmt.Sprint(rate), "http://"+addr(f.pod, webPort)+"/"))
		}
		return clients
	}
	clients := round()
	return func(enough bool) bool {
		t.Helper()
		for _, c := range clients {
			select {
			case <-c.Done():
			default:
				return false
			}
		}
		want := fmt.Sprintf("requests: %[1]s total, %[1]s started, %[1]s done, %[1]s succeeded, 0 failed, 0 errored, 0 timeout", count)
		for _, c := range clients {
			if !strings.Contains(c.Output(), want) {
				t.Errorf("not %q in\n%s", want, c.Output())
			}
		}
		if !enough {
			clients = round()
			return false
		}
		end()
		if err := held.Wait(); err != nil {
			t.Errorf("a connection that was open: %v", err)
		}
		return true
	}
}

// echoes sends noise in pieces, each when the one before is back, until stop is closed.
func echoes(conn net.Conn, stop <-chan struct{}) error {
	data, _ := noise(1<<40, 1)
	sent, back := make([]byte, 16<<10), make([]byte, 16<<10)
	for {
		select {
		case <-stop:
			return conn.Close()
		default:
		}
		if _, err := io.ReadFull(data, sent); err != nil {
			return err
		}
		_, err := conn.Write(sent)
		if err == nil {
			_, err = io.ReadFull(conn, back)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", conn.LocalAddr(), err)
		}
		if !bytes.Equal(sent, back) {
			return fmt.Errorf("%s: other bytes came back", conn.LocalAddr())
		}
	}
}
