package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// start starts cmd with its output in a log, and leaves it running. The pid file has
// its start time, too, in case the pid is reused.
func start(pidFile string, cmd *exec.Cmd) error {
	// It outlives us and must not inherit our caller's descriptors, such as a lock.
	const closeRange, cloexec = 436, 4
	if _, _, errno := syscall.Syscall(closeRange, 3, math.MaxUint32, cloexec); errno != 0 {
		return os.NewSyscallError("close_range", errno)
	}
	log, err := os.Create(filepath.Join(logDir, filepath.Base(pidFile)+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	return os.WriteFile(pidFile, []byte(fmt.Sprint(cmd.Process.Pid, " ", startTime(cmd.Process.Pid))), 0o644)
}

// alive returns the pid of a pid file's process, or an error if that has ended.
func alive(pidFile string) (int, error) {
	text, err := os.ReadFile(pidFile)
	if err != nil {
		return 0, err
	}
	var pid int
	var since string
	if _, err := fmt.Sscan(string(text), &pid, &since); err != nil {
		return 0, err
	}
	if startTime(pid) != since {
		return 0, errors.New("not running")
	}
	return pid, nil
}

// startTime is when a process started, "none" if it does not exist.
func startTime(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if err != nil || len(f) < 20 || f[0] == "Z" {
		return "none"
	}
	return f[19]
}

// kubectl runs kubectl; the error has its output.
func kubectl(args ...string) error {
	cmd := exec.Command(filepath.Join(binDir, "kubectl"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// eventually calls f until it succeeds, or returns its last error after a timeout.
func eventually(within time.Duration, what string, f func() error) error {
	deadline := time.Now().Add(within)
	for {
		err := f()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s, after %v: %w", what, within, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// shell runs commands, one a line, split at spaces.
func shell(lines ...string) error {
	for _, line := range lines {
		words := strings.Fields(line)
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, out)
		}
	}
	return nil
}
