package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/integration/results"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// shortages are what the kernel answers when it lacks descriptors or memory.
var shortages = []string{"ENOMEM", "EMFILE", "ENFILE", "ENOBUFS"}

// faultyCalls are the calls that the sidecar makes for its connections, those of its log
// and of its own look at the pod among them. Not here are close, which fails only after it
// has closed, and epoll_wait, which for the kernel knows no shortage.
var faultyCalls = []struct {
	call  string
	every int  // the call that fails of so many, on each thread
	bulk  bool // made for bulk data
	rare  bool // not made for each connection
}{
	{"accept4", 2, false, false},
	{"getsockopt", 3, false, false}, // the original destination
	{"getsockname", 3, false, true},
	{"socket", 3, false, false},
	{"setsockopt", 7, false, false},
	{"bind", 3, false, false},
	{"connect", 3, false, false},
	{"epoll_ctl", 5, false, false},
	{"recvfrom", 5, false, false},
	{"sendto", 5, false, false},
	{"shutdown", 2, false, false},
	{"write", 2, false, false}, // the log
	{"read", 2, false, true},
	{"openat", 2, false, true}, // /proc
	{"pipe2", 1, true, false},
	{"fcntl", 1, true, false},
	{"splice", 25, true, false},
}

// TestFaultCalls: each system call of the sidecar fails now and then, as for want of
// descriptors or memory, while curl makes connections and moves files. A connection may be
// reset by that. It is never served from another address than the client's, gets no other
// bytes, and does not hang; and once the fault is over the sidecar is as before.
func TestFaultCalls(t *testing.T) {
	lab.Need(t, "strace", "curl", "nginx")
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		w := p.watch(t)
		for i, c := range faultyCalls {
			errnos := shortages
			if lab.Faults(1) == 1 { // each call with two of them, each of them with half of the calls
				errnos = []string{shortages[i%4], shortages[(i+1+i/4%2)%4]}
			}
			if c.call == "recvfrom" || c.call == "sendto" || c.call == "accept4" {
				errnos = append(errnos[:len(errnos):len(errnos)], "EINTR")
			}
			f := results.Fault{Name: "sidecar, " + c.call, What: "connections"}
			for _, errno := range errnos {
				fault := p.Node.Inject(p.sidecar.Pid(), fmt.Sprintf("%s:error=%s:when=%d+%d", c.call, errno, c.every, c.every))
				lost, of := w.visit(t, 4, c.bulk)
				if !c.rare && (c.call != "getsockopt" || p.mode == contract.ModeNAT) {
					lab.Eventually(t, c.call+" fails", func() error {
						if fault.Count() > 0 {
							return nil
						}
						l, o := w.visit(t, 4, c.bulk) // a pipe is enlarged only where data has to wait
						lost, of = lost+l, of+o
						return errors.New("it is not called")
					})
				}
				f.Injected, f.Lost, f.Of = f.Injected+fault.End(), f.Lost+lost, f.Of+of
				if w.wantAsBefore(t); t.Failed() {
					t.Fatalf("after %s of %s", errno, c.call)
				}
			}
			if f.Injected > 0 {
				f.Report(t)
			}
		}
		w.wantIdle(t)
	})
}

// TestFaultAccept: no call of accept succeeds for as long as clients wait. They are served
// afterwards, and meanwhile the sidecar asks now and then, not all the time. The listener
// that could not be watched again either is watched nevertheless.
func TestFaultAccept(t *testing.T) {
	lab.Need(t, "strace", "curl", "nginx")
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		w := p.watch(t)
		f := results.Fault{Name: "sidecar, accept4 without end", What: "connections"}
		for _, errno := range shortages {
			fault := p.Node.Inject(p.sidecar.Pid(), "accept4:error="+errno, "epoll_ctl:error="+errno+":when=2+2")
			var clients []*lab.Proc
			for _, fam := range p.fams() {
				clients = append(clients, p.Client.Start(w.curl(fam, 2, false)...))
			}
			lab.Eventually(t, "five tries", func() error {
				if n := fault.Count(); n < 5 {
					return fmt.Errorf("%d", n)
				}
				return nil
			})
			tries := fault.End()
			if tries > 200 {
				t.Errorf("%d tries of accept and epoll_ctl", tries)
			}
			f.Injected += tries
			for _, c := range clients {
				_ = c.Wait()
				lost, of := w.judge(t, c.Output(), nil)
				f.Lost, f.Of = f.Lost+lost, f.Of+of
			}
			w.wantAsBefore(t)
		}
		if f.Lost > 0 {
			t.Errorf("lost %d of %d connections that only had to wait", f.Lost, f.Of)
		}
		f.Report(t)
		w.wantIdle(t)
	})
}

// watched is a pod under faults, with what it was before.
type watched struct {
	*pod
	dir         string // fileServer's
	sum         string // of the file for bulk data
	descriptors int    // the sidecar's, without a connection
}

// bulkSize is more than buffers take on the way.
const bulkSize = 3 << 20

// watch starts nginx and takes the sidecar's measure.
func (p *pod) watch(t *testing.T) *watched {
	t.Helper()
	w := &watched{pod: p}
	w.dir, _ = p.fileServer(t)
	w.sum = noiseFile(t, filepath.Join(w.dir, "bulk"), bulkSize)
	_, pipes := w.open(t)
	if lost, of := w.visit(t, 1, true); lost > 0 {
		t.Fatalf("before any fault %d of %d connections are lost", lost, of)
	}
	p.wantNone(t)
	lab.Eventually(t, "no pipe of the sidecar's", func() error {
		all, now := w.open(t)
		if now != pipes {
			return fmt.Errorf("%d pipes, %d at the start", now, pipes)
		}
		w.descriptors = all
		return nil
	})
	return w
}

// open are the sidecar's descriptors: all, and those of pipes, which it keeps for a second
// after bulk data.
func (w *watched) open(t *testing.T) (all, pipes int) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", w.sidecar.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if to, _ := os.Readlink(f); strings.HasPrefix(to, "pipe:") {
			pipes++
		}
	}
	return len(files), pipes
}

// curl asks nginx n times from the family's address, on a connection for each, and writes
// a line for each: who nginx saw, and what curl knows of it. With bulk it fetches a file
// each time.
func (w *watched) curl(f family, n int, bulk bool) []string {
	url := "http://" + addr(f.pod, webPort) + "/"
	args := []string{
		"curl", "-s", "--max-time", strconv.Itoa(int(lab.Patience.Seconds())), "--interface", f.client, "-H", "Connection: close",
		"-w", "\n= %{exitcode} %{local_port} %{local_ip}\n",
	}
	for i := range n {
		if bulk {
			args = append(args, "-o", filepath.Join(w.dir, fmt.Sprintf("got-%s-%d", f.name, i)), url+"files/bulk")
		} else {
			args = append(args, url)
		}
	}
	return args
}

// visit makes n connections from each family's client, and reports how many were lost.
func (w *watched) visit(t *testing.T, n int, bulk bool) (lost, of int) {
	t.Helper()
	for _, f := range w.fams() {
		var files []string
		if bulk {
			for i := range n {
				files = append(files, filepath.Join(w.dir, fmt.Sprintf("got-%s-%d", f.name, i)))
			}
		}
		out, err := w.Client.Try(w.curl(f, n, bulk)...)
		l, o := w.judge(t, out, files)
		if o != n {
			t.Fatalf("curl: %v: %d of %d transfers in\n%s", err, o, n, out)
		}
		lost, of = lost+l, of+o
	}
	return lost, of
}

// Curl's exit codes of a connection that was refused, that ended too early or was reset.
var refusedOrReset = []string{"7", "18", "52", "55", "56"}

// judge reads what curl wrote. A transfer is right or lost; anything else is an error of
// the test. files are those that it fetched, if any.
func (w *watched) judge(t *testing.T, out string, files []string) (lost, of int) {
	t.Helper()
	saw := ""
	for _, line := range strings.Split(out, "\n") {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[0] != "=" { // a connection that was refused has no local address
			if line != "" {
				saw = line
			}
			continue
		}
		code := fields[1]
		switch {
		case code == "0" && files != nil:
			if fileSum(t, files[of]) != w.sum {
				t.Errorf("other bytes in %s", files[of])
			}
		case code == "0":
			peer, err := peer(saw)
			if err != nil {
				t.Errorf("curl: %v in\n%s", err, out)
			}
			w.wantSeen(t, peer, addr(fields[3], atoi(t, fields[2])))
		case slices.Contains(refusedOrReset, code):
			lost++
		default:
			t.Errorf("curl ends with %s:\n%s", code, out)
		}
		saw = ""
		of++
	}
	return lost, of
}

// wantAsBefore: the sidecar is ready, serves everybody, has no descriptor more than before
// the fault, and nginx has seen nobody but the clients.
func (w *watched) wantAsBefore(t *testing.T) {
	t.Helper()
	w.waitReady()
	if lost, of := w.visit(t, 1, false); lost > 0 {
		t.Errorf("after the fault %d of %d connections are lost", lost, of)
	}
	w.wantNone(t)
	lab.Eventually(t, "the sidecar's descriptors", func() error {
		if n, _ := w.open(t); n > w.descriptors {
			return fmt.Errorf("%d, before the fault %d", n, w.descriptors)
		}
		return nil
	})
	w.wantOnlyClients(t)
}

// wantOnlyClients: nobody but the clients has reached nginx.
func (w *watched) wantOnlyClients(t *testing.T) {
	t.Helper()
	for line := range strings.Lines(accessLog(t, w.dir)) {
		ip, _, _ := strings.Cut(line, " ")
		if ip != v4.client && ip != v6.client {
			t.Errorf("nginx has seen %s", line)
		}
	}
}

// wantIdle: without a connection the sidecar makes next to no system call. It looks at the
// pod every five seconds, so a second at least is without one.
func (w *watched) wantIdle(t *testing.T) {
	t.Helper()
	w.wantNone(t)
	const most = 300 // of a look at the pod, and of what comes after the last connection
	lab.Eventually(t, "an idle sidecar", func() error {
		out, err := w.Node.Try("timeout", "-s", "INT", "1", "strace", "-f", "-c", "-p", fmt.Sprint(w.sidecar.Pid()))
		calls := -1
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) >= 4 && f[len(f)-1] == "total" {
				calls = atoi(t, f[3])
			}
		}
		if calls < 0 || calls > most {
			return fmt.Errorf("%d calls in a second (%v):\n%s", calls, err, out)
		}
		return nil
	})
}
