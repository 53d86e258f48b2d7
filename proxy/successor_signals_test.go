package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/proxy/accesslog"
	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
)

// TestHandOverFirst: as the first process of its namespace, as in a container, it gets the
// signals that nothing else would get it, before and after. It keeps no descriptor of the
// program before.
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
	before := openFiles(t, first)
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
	lab.Eventually(t, "no more descriptors than before", func() error {
		if now := openFiles(t, first); now > before {
			return fmt.Errorf("%d, before %d", now, before)
		}
		return nil
	})
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

// TestHandOverTwice: signals that come while it hands over lose nothing, be they one more
// hand-over or none.
func TestHandOverTwice(t *testing.T) {
	inModes(t, func(t *testing.T, p *pod) {
		client, application := p.pair(t, ip6)
		say(t, client, application, "before")
		for range 100 {
			p.sidecar.Signal(unix.SIGUSR2)
			say(t, client, application, "still here")
		}
		p.sidecar.WaitLog("took over")
		say(t, application, client, "so am I")
		next, nextApp := p.pair(t, ip4)
		say(t, next, nextApp, "a new one")
	})
}

// openFiles is how many descriptors a process has.
func openFiles(t *testing.T, pid int) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
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
