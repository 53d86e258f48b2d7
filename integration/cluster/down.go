package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// down ends what up started. A node's first process takes the whole node with
// it: its processes, mounts and network.
func down() error {
	var errs []error
	for n := 1; n <= nodes; n++ {
		errs = append(errs, stop(nodeDir(n)+".pid"))
	}
	errs = append(errs, stop(lanPid), removeCgroups())
	// The mounts go with the last process, a moment later: until then the
	// directories are busy.
	errs = append(errs, eventually(10*time.Second, "remove "+runDir, func() error { return os.RemoveAll(runDir) }))
	return errors.Join(errs...)
}

// running reports whether a process that up started is alive.
func running() bool {
	for n := 1; n <= nodes; n++ {
		if _, err := alive(nodeDir(n) + ".pid"); err == nil {
			return true
		}
	}
	_, err := alive(lanPid)
	return err == nil
}

// stop kills the process of a pid file and waits until it is gone.
func stop(pidFile string) error {
	pid, err := alive(pidFile)
	if err != nil {
		return nil
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill %d: %w", pid, err)
	}
	return eventually(20*time.Second, "end "+pidFile, func() error {
		if _, err := alive(pidFile); err == nil {
			return errors.New("still running")
		}
		return nil
	})
}
