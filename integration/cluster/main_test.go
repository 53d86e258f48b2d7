package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestMain gives the tests a cluster with the product installed on it, and
// ends the cluster unless it was up before or KEEP is set. DISTRO says whose
// clothes it wears: kubeadm (the default) or k3s. IMAGES is the folder of the
// product's images, dist/images by default. Tests that disturb no other's pods
// are parallel, and so run after the others.
func TestMain(m *testing.M) {
	if os.Args[0] == "guard" {
		os.Exit(guard())
	}
	code, err := withCluster(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		code = 1
	}
	os.Exit(code)
}

func withCluster(run func() int) (code int, err error) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			return 1, fmt.Errorf("needs root")
		}
		fmt.Fprintln(os.Stderr, "skipped: needs root")
		return 0, nil
	}
	distro := cmp.Or(os.Getenv("DISTRO"), "kubeadm")
	if os.Getenv("KEEP") != "" {
		defer fmt.Fprintf(os.Stderr, "export KUBECONFIG=%s PATH=%s:$PATH\n", kubeconfig, binDir)
	} else if _, notUp := alive(lanPid); notUp != nil {
		end, err := startGuard()
		if err != nil {
			return 1, err
		}
		defer func() { err = cmp.Or(err, end()) }()
	}
	if err := up(distro); err != nil {
		return 1, err
	}
	archives, err := filepath.Glob(cmp.Or(os.Getenv("IMAGES"), "../../dist/images") + "/*-" + runtime.GOARCH + ".tar")
	if err != nil {
		return 1, err
	}
	if len(archives) == 0 {
		return 1, errors.New("no images of the product: make images")
	}
	if err := load(nil, archives); err != nil {
		return 1, err
	}
	if err := errors.Join(kubectl("apply", "-k", manifests("install", distro)), installed()); err != nil {
		return 1, err
	}
	say("plugin installed")
	defer func() { say("tests ended") }()
	return run(), nil
}

// startGuard starts a process that removes the cluster when this one ends for any
// reason: a panic or timeout of the tests leaves no time to clean up. The returned
// function removes it at once, and so do SIGINT, SIGTERM and the death of `go test`,
// which does not signal its children when it is killed.
func startGuard() (end func() error, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := &exec.Cmd{Path: self, Args: []string{"guard"}, Stderr: os.Stderr, SysProcAttr: &syscall.SysProcAttr{Setsid: true}}
	life, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	end = sync.OnceValue(func() error {
		starting.Lock() // for good
		life.Close()
		return cmd.Wait()
	})
	interrupted, orphaned := make(chan os.Signal, 1), time.NewTicker(time.Second)
	signal.Notify(interrupted, syscall.SIGINT, syscall.SIGTERM)
	parent := os.Getppid()
	go func() {
		for {
			select {
			case <-orphaned.C:
				if os.Getppid() == parent {
					continue
				}
			case <-interrupted:
			}
			fmt.Fprintln(os.Stderr, "interrupted: ending the cluster")
			_ = end()
			os.Exit(1)
		}
	}()
	return end, nil
}

// guard waits until the tests' process is gone, or no longer needs it.
func guard() int {
	_, _ = io.Copy(io.Discard, os.Stdin)
	if err := down(); err != nil {
		fmt.Fprintln(os.Stderr, "end the cluster:", err)
		return 1
	}
	return 0
}

// await fails the test unless f succeeds in time.
func await(t *testing.T, within time.Duration, what string, f func() error) {
	t.Helper()
	if err := eventually(within, what, f); err != nil {
		t.Fatal(err)
	}
}

// onNodeRun runs a command on a node and returns what it prints.
func onNodeRun(t *testing.T, n int, args ...string) string {
	t.Helper()
	out, err := exec.Command(binDir+"/cluster", append([]string{"nx", fmt.Sprint(n)}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("on node %d: %v: %v\n%s", n, args, err, out)
	}
	return string(out)
}

// onNodeInput is onNodeRun with an input.
func onNodeInput(t *testing.T, n int, stdin string, args ...string) {
	t.Helper()
	cmd := exec.Command(binDir+"/cluster", append([]string{"nx", fmt.Sprint(n)}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("on node %d: %v: %v\n%s", n, args, err, out)
	}
}
