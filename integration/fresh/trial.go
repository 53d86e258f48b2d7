package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
)

//go:embed enter.sh
var enter string

// trial is what a new user does first on such a machine.
type trial struct {
	name    string
	command string   // run as root in a clone that belongs to a user
	lines   int      // if not 0, the command must fail with at most so many lines of output, make's own included
	noGo    bool     // without Go
	want    []string // texts in the output
	once    []string // texts that are in the output exactly once
}

const installing = "setup: installing for make "

var trials = []trial{
	{
		name: "make demo, and again", command: "make demo && make demo",
		want: []string{"  tproxy  IPv6  nc "},
		once: []string{installing + "demo: curl iproute2 netcat-openbsd nftables socat\n"},
	},
	{
		// The tests are some of those with the most to start: servers and the race detector.
		name: "make test begins, without git's folder", command: `rm -r .git && make race-needs test-needs && make race-needs test-needs &&
			export CI=true PATH=$PATH:/usr/local/go/bin && go test -count=1 -run 'TestNginx|TestPostgres|TestRedis|TestOpenSSH' ./integration &&
			CGO_ENABLED=1 go test -race -count=1 -run TestServe ./proxy`,
		want: []string{"ok  \tgithub.com/tproxy-cni/tproxy-cni/integration", "ok  \tgithub.com/tproxy-cni/tproxy-cni/proxy"},
		once: []string{installing + "race: gcc libc6-dev\n", installing + "test: chromium-headless-shell conntrack cpio "},
	},
	{
		name: "without root make test goes on, make demo does not", command: user + "make test-needs && " + user + "make demo", lines: 3,
		want: []string{
			"setup: not root: tests that need root or these programs are skipped: chromium-headless-shell conntrack cpio ",
			"setup: make demo needs curl iproute2 netcat-openbsd nftables socat, and root to install them: sudo make demo\n",
		},
	},
	{
		name: "not Debian", command: "rm /usr/bin/apt-get; make demo", lines: 2,
		want: []string{"setup: make demo needs curl ip nc nft socat: install them (in Debian's packages: curl iproute2 netcat-openbsd nftables socat) and run make again\n"},
	},
	{
		name: "no Go", noGo: true, command: "make demo", lines: 1,
		want: []string{"this needs the Go of go.mod: unpack "},
	},
	{
		name: "no network", command: "unshare --net make demo", lines: 20,
		want: []string{installing, "setup: apt-get install: exit status 100\n", "E: "},
	},
}

// user runs the command that follows as a user with a writable build cache.
const user = "setpriv --reuid=1000 --regid=1000 --clear-groups env HOME=/home/user GOCACHE=/tmp/user "

// try runs a trial on the machine and returns its output.
func (m machine) try(ctx context.Context, t trial) (said string, err error) {
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "/bin/sh", "-c", enter)
	cmd.Env = append(append(os.Environ(), m.env...), "BASE="+m.base, "DEBS="+m.debs, "SOURCE="+m.source, "WORK="+m.work, "TRIAL="+t.command)
	if t.noGo {
		cmd.Env = append(cmd.Env, "GOROOT=")
	}
	// It ends with us even if we are killed. The kernel sends the signal when the
	// thread that started it ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	said = string(out)
	if t.lines > 0 {
		switch lines := strings.Count(said, "\n"); {
		case err == nil:
			err = errors.New("it did not fail")
		case lines > t.lines:
			err = fmt.Errorf("it failed with %d lines of output, want at most %d", lines, t.lines)
		case cmd.ProcessState != nil && cmd.ProcessState.Exited():
			err = nil
		}
	}
	if strings.Contains(said, "left: ") {
		err = errors.Join(err, errors.New("it left something behind"))
	}
	for _, w := range t.want {
		if !strings.Contains(said, w) {
			err = errors.Join(err, fmt.Errorf("no %q in its output", w))
		}
	}
	for _, w := range t.once {
		if n := strings.Count(said, w); n != 1 {
			err = errors.Join(err, fmt.Errorf("%d times in its output, want once: %q", n, w))
		}
	}
	return said, err
}
