package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestHandOverClients: real clients do not notice: a download of curl's, and socat with
// one direction closed.
func TestHandOverClients(t *testing.T) {
	lab.Need(t, "curl", "socat")
	inModes(t, func(t *testing.T, p *pod) {
		dir := t.TempDir()
		data := random(t, lab.Count(24<<20))
		if err := os.WriteFile(filepath.Join(dir, "bulk"), data, 0o644); err != nil {
			t.Fatal(err)
		}
		inFamilies(t, func(t *testing.T, f ipFamily) {
			files := p.listen(t, 0)
			go func() { _ = http.Serve(files.Listener, http.FileServer(http.Dir(dir))) }()
			out := filepath.Join(dir, f.name)
			curl := p.Client.Start("curl", "-sSg", "--limit-rate", strconv.Itoa(lab.Count(12<<20)), "-o", out, "http://"+addr(f.pod, files.port)+"/bulk")

			halves := p.listen(t, 0)
			cmd := exec.Command("socat", "-t", "60", "STDIO", "TCP:"+addr(f.pod, halves.port))
			upload := data[:len(data)/24]
			cmd.Stdin = bytes.NewReader(upload)
			socat := p.Client.StartCmd(cmd)
			application := halves.accept(t)
			if got, err := io.ReadAll(application); err != nil || !bytes.Equal(got, upload) {
				t.Errorf("socat's %d bytes arrive as %d: %v", len(upload), len(got), err)
			}
			for range 3 {
				p.handOver(t)
			}
			if _, err := io.WriteString(application, "the answer\n"); err != nil {
				t.Error(err)
			}
			socat.WaitLog("the answer")
			application.Close()
			if err := socat.Wait(); err != nil {
				t.Errorf("socat: %v", err)
			}
			if err := curl.Wait(); err != nil {
				t.Errorf("curl: %v: %s", err, curl.Output())
			}
			if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, data) {
				t.Errorf("curl got %d bytes of %d, or others: %v", len(got), len(data), err)
			}
		})
	})
}

// TestHandOverMany: ten thousand idle connections and their listener's queue.
func TestHandOverMany(t *testing.T) {
	many := manyPairs(t)
	for _, mode := range []string{contract.ModeNAT, contract.ModeTProxy} {
		t.Run(mode, func(t *testing.T) { // one after the other, for the memory
			p := newPod(t, mode)
			clients, applications := p.pairs(t, many)
			p.handOver(t)
			p.handOver(t)
			for _, line := range p.lines("took over") {
				t.Logf("%s connections paused for %s", line["connections"], line["paused"])
				if line["connections"] != strconv.Itoa(many) {
					t.Errorf("took over %s connections, want %d", line["connections"], many)
				}
			}
			p.wantAllTalk(t, clients, applications)
			if _, body := p.admin("/readyz"); !strings.Contains(body, fmt.Sprintf("connections: %d of", many)) {
				t.Errorf("want %d connections: %s", many, body)
			}
		})
	}
}

// manyPairs is ten thousand, or as many as the limit of open files allows to a single
// source of the sidecar, which inherits the limit, and to the test. Each has two files for
// a connection, and root may raise the limit where it has CAP_SYS_RESOURCE.
func manyPairs(t *testing.T) int {
	t.Helper()
	lab.Need(t)
	var before syscall.Rlimit
	err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before)
	if more := uint64(1 << 15); err == nil && before.Max < more {
		if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: more, Max: more}) == nil {
			t.Cleanup(func() { _ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before) })
		}
	}
	files, rerr := raiseNoFile()
	if err = errors.Join(err, rerr); err != nil {
		t.Fatal(err)
	}
	limit := connsFor(files)
	return min(lab.Count(10_000), limit-int(reservedOf(int64(limit))), int(files)/2-100)
}

// pairs opens connections, of both families in turn.
func (p *pod) pairs(t *testing.T, n int) (clients, applications []*net.TCPConn) {
	t.Helper()
	for _, ns := range []*lab.NS{p.Client, p.Pod} {
		ns.Sysctl("net.ipv4.tcp_rmem", "4096 16384 65536")
		ns.Sysctl("net.ipv4.tcp_wmem", "4096 16384 65536")
	}
	a := p.listen(t, 0)
	for i := range n {
		clients = append(clients, p.dial(t, []ipFamily{ip4, ip6}[i%2], a.port))
		applications = append(applications, a.accept(t))
	}
	return clients, applications
}

// wantAllTalk sends a text of its own on each connection, both ways.
func (p *pod) wantAllTalk(t *testing.T, clients, applications []*net.TCPConn) {
	t.Helper()
	for i, c := range clients {
		text := fmt.Sprintf("connection %d", i)
		patient(t, c)
		patient(t, applications[i])
		say(t, c, applications[i], text)
		say(t, applications[i], c, text)
		p.wantSource(t, c, applications[i])
	}
}
