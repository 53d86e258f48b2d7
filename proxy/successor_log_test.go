package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
)

// TestHandOverUnread: with the pipe of its log full a sidecar hands over, and its successor
// serves. The lines that are lost by it are counted, and told once the log is read again.
func TestHandOverUnread(t *testing.T) {
	p := prepared(t, contract.ModeNAT)
	ours, theirs := p.startUnread(t, sidecarCommand(t, "--mode", p.mode)...)
	client, application := p.pair(t, ip4)
	say(t, client, application, "before")
	fill(t, theirs)
	for range 2 { // one line that does not get into the pipe, and one that waits for that
		c, a := p.pair(t, ip6)
		say(t, c, a, "no probe")
		sock.Reset(c)
		wantReset(t, a)
	}
	p.sidecar.Signal(unix.SIGUSR2)
	lab.Eventually(t, "the process is the successor", func() error {
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.sidecar.Pid()))
		if err == nil && !bytes.Contains(env, []byte("TPROXY_HANDOVER=take")) {
			err = errors.New("it is not")
		}
		return err
	})
	patient(t, client)
	patient(t, application)
	say(t, client, application, "still here")
	next, nextApp := p.pair(t, ip4)
	say(t, next, nextApp, "a new one")
	if _, text := p.admin("/metrics"); !strings.Contains(text, "tproxy_proxy_log_lines_lost_total 2\n") {
		t.Errorf("2 lines are lost: %s", text)
	}

	log := &lab.Output{}
	go func() { _, _ = io.Copy(log, ours) }()
	lab.Eventually(t, "the successor logs", func() error { return wantIn(log, "took over") })
	sock.Reset(next)
	lab.Eventually(t, "the lost lines are told", func() error { return wantIn(log, "connection records dropped\" lines=2") })
}

// TestHandOverUnreadEnd: SIGTERM is not missed by a sidecar that hands over and whose log
// nobody reads: its line waits for a second, and not the signal.
func TestHandOverUnreadEnd(t *testing.T) {
	p := prepared(t, contract.ModeNAT)
	dir := openDir(t)
	at, checked := filepath.Join(dir, "tproxy-proxy"), filepath.Join(dir, "checked")
	sidecar := strings.Join(sidecarCommand(t, "--mode", p.mode, "--drain", "0s"), " ")
	text := "#!/bin/sh\ncase $TPROXY_HANDOVER in check*) " + sidecar + "; touch " + checked + ";; *) exec " + sidecar + ";; esac\n"
	if err := os.WriteFile(at, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	_, theirs := p.startUnread(t, append([]string{"bash", "-c", `exec -a "$0" "$@"`, at}, sidecarCommand(t, "--mode", p.mode, "--drain", "0s")...)...)
	client, application := p.pair(t, ip6)
	say(t, client, application, "before")
	fill(t, theirs)
	c, a := p.pair(t, ip4) // a line, for which the sidecar waits after the check
	say(t, c, a, "no probe")
	sock.Reset(c)
	wantReset(t, a)
	p.sidecar.Signal(unix.SIGUSR2)
	lab.Eventually(t, "the check of the next program", func() error {
		_, err := os.Stat(checked)
		return err
	})
	if err := p.sidecar.Stop(); err != nil {
		t.Errorf("ended with %v", err)
	}
	wantReset(t, client)
	wantReset(t, application)
}

// startUnread starts a sidecar whose log goes to a pipe that nobody reads.
func (p *pod) startUnread(t *testing.T, command ...string) (ours, theirs *os.File) {
	t.Helper()
	ours, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ours.Close()
		theirs.Close()
	})
	args := p.user().Args(command...)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stderr = theirs
	p.sidecar = p.Pod.StartCmd(cmd).WaitListen(contract.ProxyPort, contract.AdminPort)
	p.waitReady()
	return ours, theirs
}

func wantIn(log *lab.Output, text string) error {
	if !strings.Contains(log.String(), text) {
		return fmt.Errorf("no %q", text)
	}
	return nil
}

// fill writes to a pipe until it is full.
func fill(t *testing.T, pipe *os.File) {
	t.Helper()
	fd := int(pipe.Fd())
	err := unix.SetNonblock(fd, true)
	for err == nil {
		_, err = unix.Write(fd, []byte("x\n"))
	}
	if rest := unix.SetNonblock(fd, false); !errors.Is(err, unix.EAGAIN) || rest != nil {
		t.Fatal(err, rest)
	}
}
