package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/install/node/nodetest"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/lacks"
)

// Environment variables that make the test binary tproxy-install.
const (
	envRun   = "INSTALL_TEST_RUN"   // any value
	envCrash = "INSTALL_TEST_CRASH" // the number of the file operation before which to die
	envTimer = "INSTALL_TEST_TIMER" // the longest time between two attempts
	envLacks = "INSTALL_TEST_LACKS" // what the kernel is to be taken to lack, as in package lacks
	envStray = "INSTALL_TEST_STRAY" // any value: the main thread is in another network namespace
)

func init() {
	if os.Getenv(envStray) != "" {
		runtime.LockOSThread() // init runs on the main thread, and so does main then
	}
}

func TestMain(m *testing.M) {
	if os.Getenv(envRun) == "" {
		os.Exit(m.Run())
	}
	lacks.Features = os.Getenv(envLacks)
	if os.Getenv(envStray) != "" {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			panic(err)
		}
	}
	status := make(chan int)
	go func() { // on another thread than the main one, if that is locked
		status <- run(world{
			args: os.Args[1:], getenv: os.Getenv, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
			before: dieAt(os.Getenv(envCrash)), timer: timer(os.Getenv(envTimer)),
		})
	}()
	os.Exit(<-status)
}

// dieAt kills this process before its nth file operation, as the kernel's OOM
// killer would.
func dieAt(text string) func(op, path string) error {
	n, err := strconv.Atoi(text)
	if err != nil {
		return nil
	}
	return func(string, string) error {
		if n--; n == 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return nil
	}
}

func timer(text string) time.Duration {
	d, _ := time.ParseDuration(text)
	return d
}

// testNode is a node, and the image has tproxy-install beside the plugin.
type testNode struct {
	*nodetest.Node
	t *testing.T
}

// newTestNode has the named files of nodetest as the cluster's configurations.
func newTestNode(t *testing.T, names ...string) *testNode {
	t.Helper()
	return &testNode{nodetest.New(t, names...), t}
}

// program is tproxy-install in the image: this test binary under its name.
func (n *testNode) program() string {
	n.t.Helper()
	path := filepath.Join(n.Image, "tproxy-install")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	test, err := os.Executable()
	must(n.t, err)
	if os.Link(test, path) != nil { // another file system
		data, err := os.ReadFile(test)
		must(n.t, err)
		must(n.t, os.WriteFile(path, data, 0o755))
	}
	return path
}

// command runs tproxy-install on this node, node defaults included.
func (n *testNode) command(verb string, args ...string) *exec.Cmd {
	n.t.Helper()
	args = append([]string{verb, "--cni-conf-dir", n.ConfDir, "--cni-bin-dir", n.BinDir}, args...)
	if verb == "install" {
		args = append(args, "--mode", contract.ModeNAT)
	}
	cmd := exec.Command(n.program(), args...)
	cmd.Env = append(os.Environ(), envRun+"=1")
	return cmd
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
