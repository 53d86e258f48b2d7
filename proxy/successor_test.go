package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
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
