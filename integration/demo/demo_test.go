package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/programs"
)

// asDemo makes the test binary be the program itself.
const asDemo = "DEMO_TEST_MAIN"

// bin is where the programs are built for the tests.
var bin string

func TestMain(m *testing.M) {
	if os.Getenv(asDemo) != "" {
		main()
	}
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	var err error
	if bin, err = os.MkdirTemp("", "demo-test-bin-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(bin)
	return m.Run()
}

// build builds what `make build upstream` does.
var build = sync.OnceValue(func() error {
	for _, p := range programs.All() {
		dir := bin
		if !p.Ours() {
			dir = filepath.Join(bin, "upstream")
		}
		if err := programs.Build(context.Background(), "../..", dir, p.Name); err != nil {
			return err
		}
	}
	return nil
})

// play is a run of the demo.
type play struct {
	cmd    *exec.Cmd
	stdout io.ReadCloser
	lines  *bufio.Scanner
	stderr bytes.Buffer
	tmp    string // its TMPDIR
	net    string // the CNI network's name, once a row is there
}

// start starts the demo in a process group of its own.
func start(t *testing.T) *play {
	t.Helper()
	lab.Need(t, "curl", "ip", "nc", "nft", "setpriv", "socat", "ss")
	if err := build(); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &play{cmd: exec.Command(self, "--bin", bin)}
	if p.tmp, err = os.MkdirTemp("", "demo-test-tmp-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(p.tmp) })
	if err := os.Chmod(p.tmp, 0o755); err != nil {
		t.Fatal(err)
	}
	p.cmd.Env = append(os.Environ(), asDemo+"=1", "TMPDIR="+p.tmp)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.Stderr = &p.stderr
	if p.stdout, err = p.cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	p.lines = bufio.NewScanner(p.stdout)
	return p
}

// until reads to the first line with the text.
func (p *play) until(t *testing.T, text string) {
	t.Helper()
	for p.lines.Scan() {
		if strings.Contains(p.lines.Text(), text) {
			if dirs, _ := filepath.Glob(filepath.Join(p.tmp, "lab-cni-*")); len(dirs) == 1 {
				p.net = filepath.Base(dirs[0])
			}
			return
		}
	}
	t.Fatalf("no line with %q\n%s", text, p.stderr.String())
}

// ended waits for the demo's end, compares its status, and looks whether
// anything is left of it: namespaces, processes, files.
func (p *play) ended(t *testing.T, status int) {
	t.Helper()
	_ = p.cmd.Wait()
	if got := p.cmd.ProcessState.ExitCode(); got != status {
		t.Errorf("status %d, want %d\n%s", got, status, p.stderr.String())
	}
	var left []string
	for _, pattern := range []string{
		fmt.Sprintf("/run/netns/lab%d-*", p.cmd.Process.Pid),
		filepath.Join(p.tmp, "*"),
		"/var/lib/cni/results/" + p.net + "-*",
	} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, paths...)
	}
	if left != nil {
		t.Errorf("left: %s", left)
	}
	if p.net == "" {
		t.Error("never saw the CNI network")
	}
	// What the terminal's signal ended is init's to collect, in its own time.
	lab.Eventually(t, "no process is left", func() error {
		if err := syscall.Kill(-p.cmd.Process.Pid, 0); !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill: %v", err)
		}
		return nil
	})
}

// row is a line of the table without the addresses and ports, which differ from
// run to run and which the demo compares itself; empty for another line.
func row(line string) string {
	f := strings.Fields(line)
	if len(f) < 7 || !strings.HasPrefix(f[1], "IPv") {
		return ""
	}
	f[3], f[4] = "client", "saw"
	return strings.Join(f, " ")
}

// TestDemo: all that a visitor is promised, and README shows.
func TestDemo(t *testing.T) {
	p := start(t)
	var table, processes []string
	var all strings.Builder
	p.until(t, "application saw")
	for p.lines.Scan() {
		line := p.lines.Text()
		fmt.Fprintln(&all, line)
		f := strings.Fields(line)
		switch {
		case row(line) != "":
			table = append(table, row(line))
		case strings.HasPrefix(line, "  tproxy-proxy "), strings.HasPrefix(line, "  socat "):
			processes = append(processes, strings.Join(f, " "))
		}
	}
	p.ended(t, 0)
	var want []string
	for _, exact := range []string{"nat %s address, port none", "tproxy %s address none", "plain %s no none"} {
		for _, how := range []string{"IPv4 curl", "IPv4 nc", "IPv6 curl", "IPv6 nc"} {
			want = append(want, fmt.Sprintf(exact, how+" client saw"))
		}
	}
	if d := cmp.Diff(want, table); d != "" {
		t.Error(d)
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var shown []string
	top, _, _ := strings.Cut(string(readme), "\n## ")
	for line := range strings.Lines(top) {
		if r := row(line); r != "" {
			shown = append(shown, r)
		}
	}
	if d := cmp.Diff(want, shown); d != "" {
		t.Errorf("README shows another table: %s", d)
	}
	if d := cmp.Diff([]string{
		"tproxy-proxy --mode nat 7089 none none none 1",
		"tproxy-proxy --mode tproxy 7089 none none net_raw 1",
		"socat 1000 none none none 1",
	}, processes); d != "" {
		t.Error(d)
	}
	for _, s := range []string{"redirect to :5000", "meta skuid 7089", "fwmark 0x1000/0x1000 lookup 29808", "local default dev lo"} {
		if !strings.Contains(all.String(), s) {
			t.Errorf("does not show %q", s)
		}
	}
	if strings.Contains(all.String(), "\x1b") {
		t.Error("colours in a pipe")
	}
	for _, l := range strings.Split(all.String(), "\n") {
		if n := len([]rune(l)); n > 80 {
			t.Errorf("%d columns: %s", n, l)
		}
	}
}

// TestInterrupted: Ctrl-C leaves nothing behind, however early it comes.
func TestInterrupted(t *testing.T) {
	for name, at := range map[string]string{
		"before the pods":     "Network namespaces",
		"after the first row": " IPv4 ",
		"among the rules":     "chain redirect_in",
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t)
			p.until(t, at)
			// A terminal signals the whole group, a second time if one is impatient.
			for range 2 {
				if err := syscall.Kill(-p.cmd.Process.Pid, syscall.SIGINT); err != nil {
					t.Fatal(err)
				}
			}
			_, _ = io.Copy(io.Discard, p.stdout)
			p.ended(t, 1)
			if got := p.stderr.String(); got != "\ndemo: interrupted; everything it made is removed\n" {
				t.Errorf("says %q", got)
			}
		})
	}
}

// TestClosedPipe: nor does `make demo | head`.
func TestClosedPipe(t *testing.T) {
	p := start(t)
	p.until(t, " IPv4 ")
	p.stdout.Close()
	p.ended(t, 1)
}

// TestFailed: nor does a failure, here of the sidecar.
func TestFailed(t *testing.T) {
	p := start(t)
	p.until(t, " IPv4 ")
	copies, err := filepath.Glob(filepath.Join(p.tmp, "*", "tproxy-proxy"))
	if err != nil || len(copies) != 1 {
		t.Fatal(err, copies)
	}
	pids, err := running(copies[0])
	if err != nil || len(pids) != 2 {
		t.Fatal(err, pids)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	_, _ = io.Copy(io.Discard, p.stdout)
	p.ended(t, 1)
}

// running are the processes of a program, which is one run's own copy.
func running(program string) (pids []int, err error) {
	all, err := filepath.Glob("/proc/[0-9]*")
	for _, dir := range all {
		if exe, err := os.Readlink(filepath.Join(dir, "exe")); err == nil && exe == program {
			pid, err := strconv.Atoi(filepath.Base(dir))
			if err != nil {
				return nil, err
			}
			pids = append(pids, pid)
		}
	}
	return pids, err
}

func TestJudge(t *testing.T) {
	ap := netip.MustParseAddrPort
	client := ap("[fd00:1::2]:40000")
	for _, tc := range []struct {
		mode string
		saw  netip.AddrPort
		got  exactness
		ok   bool
	}{
		{"nat", client, addressAndPort, true},
		{"nat", ap("[fd00:1::2]:1024"), addressOnly, false},
		{"nat", ap("[::1]:40000"), neither, false},
		{"tproxy", ap("[fd00:1::2]:1024"), addressOnly, true},
		{"tproxy", ap("[fd00:1::3]:1024"), neither, false},
		{"plain", ap("[::1]:1024"), neither, true},
		{"plain", client, addressAndPort, false},
	} {
		if got, ok := judge(tc.mode, client, tc.saw); got != tc.got || ok != tc.ok {
			t.Errorf("%s, %s: %s, %v", tc.mode, tc.saw, got, ok)
		}
	}
}

func TestAllowed(t *testing.T) {
	for _, tc := range []struct {
		mode, name, set string
		want            bool
	}{
		{"nat", "CapBnd", "none", true},
		{"nat", "CapBnd", "net_raw", false},
		{"tproxy", "CapBnd", "net_raw", true},
		{"tproxy", "CapEff", "net_raw", false},
		{"tproxy", "CapBnd", "3000", false},
		{"tproxy", "CapPrm", "?", false},
	} {
		if got := allowed(tc.mode, tc.name, tc.set); got != tc.want {
			t.Errorf("%v: got %v", tc, got)
		}
	}
}

// TestReady: one line says what is missing.
func TestReady(t *testing.T) {
	lab.Need(t, "setpriv", "nft", "curl")
	if err := ready("nowhere"); err == nil || err.Error() != "no tproxy-cni in nowhere: make build upstream" {
		t.Error(err)
	}
	t.Run("user", func(t *testing.T) {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		dir := lab.Copies(t, map[string]string{"demo": self})
		args := lab.User{UID: appUID}.Args(filepath.Join(dir, "demo"))
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = append(os.Environ(), asDemo+"=1")
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != 1 || string(out) != "demo: needs root to create network namespaces: sudo make demo\n" {
			t.Errorf("%v, %q", err, out)
		}
	})
	t.Setenv("PATH", "")
	err := ready("nowhere")
	if err == nil || !strings.HasPrefix(err.Error(), "needs curl, ") || !strings.Contains(err.Error(), ": make demo installs ") {
		t.Error(err)
	}
}
