package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/proxy/accesslog"
	"github.com/tproxy-cni/tproxy-cni/proxy/relay"
)

// TestLogUnread: with the pipe of its log full a sidecar goes on serving, and logs
// how many records it dropped when the log is read again; it exits in order even if
// it never is.
func TestLogUnread(t *testing.T) {
	for _, read := range []bool{true, false} {
		t.Run(fmt.Sprintf("read in the end: %v", read), func(t *testing.T) {
			t.Parallel()
			p := prepared(t, contract.ModeNAT)
			ours, theirs, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer ours.Close()
			args := p.user().Args(sidecarCommand(t, "--mode", p.mode)...)
			cmd := exec.Command(args[0], args[1:]...)
			cmd.Stderr = theirs
			p.sidecar = p.Pod.StartCmd(cmd).WaitListen(contract.ProxyPort, contract.AdminPort)
			theirs.Close()
			p.waitReady()

			const lineLength = 150 // at least
			pipe, err := unix.FcntlInt(ours.Fd(), unix.F_SETPIPE_SZ, os.Getpagesize())
			if err != nil {
				t.Fatal(err)
			}
			connections := pipe/lineLength + 50
			if read {
				connections += 2048 // more than the queue holds
			}
			a := p.listen(t, 0).echo()
			for i := range connections {
				c := p.dial(t, []ipFamily{ip4, ip6}[i%2], a.port)
				if _, err := c.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
				if err := c.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				if b, err := io.ReadAll(c); err != nil || string(b) != "x" {
					t.Fatalf("got %q and %v", b, err)
				}
				c.Close()
			}
			if read {
				lost := wantAll(t, ours, connections)
				want := fmt.Sprintf("tproxy_proxy_log_lines_lost_total %d\n", lost)
				if _, text := p.admin("/metrics"); !strings.Contains(text, want) {
					t.Errorf("the metrics do not have %q: %s", want, text)
				}
			}
			if err := p.sidecar.Stop(); err != nil {
				t.Errorf("ended with %v", err)
			}
		})
	}
}

// wantAll reads the log until it has accounted for each connection, as a record or
// as one dropped. Some must be; it returns how many.
func wantAll(t *testing.T, log io.Reader, connections int) (lost int) {
	t.Helper()
	told := 0
	for lines := bufio.NewScanner(log); told+lost < connections && lines.Scan(); {
		switch line := parseLine(lines.Text()); {
		case line["msg"] == "connection":
			told++
		case line["lines"] != "":
			n, err := strconv.Atoi(line["lines"])
			if err != nil {
				t.Fatal(err)
			}
			lost += n
		}
	}
	if told+lost != connections || lost == 0 {
		t.Errorf("the log has %d connections and %d dropped, want %d together", told, lost, connections)
	}
	return lost
}

// TestEndsOfSides: what the relay calls the end of a broken connection is in the closed
// set that is counted.
func TestEndsOfSides(t *testing.T) {
	found := map[string]bool{}
	for _, side := range []int{relay.Client, relay.Application} {
		for errno := unix.Errno(1); errno < 134; errno++ {
			how := (&relay.Broken{Side: side, Err: os.NewSyscallError("read", errno)}).How()
			if found[how] = true; !slices.Contains(accesslog.Ends[:], how) {
				t.Errorf("%q is not in accesslog.Ends", how)
			}
		}
	}
	if len(found) != 6 {
		t.Errorf("only %v", found)
	}
}
