package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// install installs packages with apt. A failed update is reported only if the
// install fails, too: old lists are often good enough.
func install(ctx context.Context, packages []string) error {
	before := installed()
	allow, err := forbidStarts(policy, os.Getpid())
	if err != nil {
		return err
	}
	defer allow()
	said, _ := apt(ctx, "update")
	out, err := apt(ctx, append([]string{
		"install", "--yes", "--no-install-recommends", "--no-remove",
		"-o", "Dpkg::Options::=--force-confold",
	}, packages...)...)
	if err != nil {
		err = fmt.Errorf("apt-get install: %w\n%s", err, complaints(said+out))
	}
	return errors.Join(err, noBoot(before)) // also for the packages installed before it failed
}

// apt runs apt-get without questions and waits while another apt holds the lock,
// as on a machine that has just booted. It returns apt's output.
func apt(ctx context.Context, args ...string) (said string, err error) {
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-q", "-o", "DPkg::Lock::Timeout=600"}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "APT_LISTCHANGES_FRONTEND=none", "NEEDRESTART_SUSPEND=1")
	// SIGINT rather than SIGKILL, which would leave a package half configured.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// complaints returns the errors and warnings in apt's output, or all of it if
// there are none.
func complaints(said string) string {
	var c strings.Builder
	for line := range strings.Lines(said) {
		if strings.HasPrefix(line, "E: ") || strings.HasPrefix(line, "W: ") || strings.HasPrefix(line, "dpkg: ") {
			c.WriteString(line)
		}
	}
	if c.Len() == 0 {
		return strings.TrimSpace(said)
	}
	return strings.TrimSpace(c.String())
}

const (
	sbin   = "/usr/sbin"
	policy = sbin + "/policy-rc.d" // what a package's script asks whether it may start a service: see invoke-rc.d(8)
	mark   = "# Made by tproxy-cni's make while it installs packages."
)

// forbidStarts keeps packages from starting services until allow is called. A
// policy that the administrator wrote stays in force. Ours removes itself once the
// process pid has ended, for whatever reason.
func forbidStarts(policy string, pid int) (allow func(), err error) {
	if old, err := os.ReadFile(policy); err == nil && !strings.Contains(string(old), mark) {
		return func() {}, nil
	}
	script := fmt.Sprintf("#!/bin/sh\n%s\nkill -0 %d 2>/dev/null && exit 101\nrm -f \"$0\"\n", mark, pid)
	if err := os.WriteFile(policy, []byte(script), 0o755); err != nil {
		return nil, err
	}
	return func() { os.Remove(policy) }, nil
}

// noBoot keeps the services of packages that were not there before from
// starting at the next boot: a laptop gets no sshd from running tests. It is
// what systemctl disable and update-rc.d do, and works where systemd is not
// installed yet.
func noBoot(before map[string]bool) error {
	var added []string
	for pkg := range installed() {
		if !before[pkg] {
			added = append(added, pkg)
		}
	}
	if added == nil {
		return nil
	}
	files, err := exec.Command("dpkg", append([]string{"--listfiles"}, added...)...).Output()
	if err != nil {
		return fmt.Errorf("dpkg --listfiles: %w", err)
	}
	for file := range strings.Lines(string(files)) {
		file = strings.TrimSpace(file)
		dir, name := filepath.Split(file)
		switch strings.TrimPrefix(dir, "/usr") {
		case "/lib/systemd/system/":
			links, _ := filepath.Glob("/etc/systemd/system/*.wants/*")
			for _, l := range links {
				// The link of a template is called after its instance: getty@tty1.service.
				if unit, _ := os.Readlink(l); filepath.Base(unit) == name {
					err = errors.Join(err, os.Remove(l))
				}
			}
		case "/etc/init.d/":
			if links, _ := filepath.Glob("/etc/rc[2345].d/S[0-9][0-9]" + name); links == nil {
				continue
			}
			if out, e := exec.Command("update-rc.d", name, "disable").CombinedOutput(); e != nil {
				err = errors.Join(err, fmt.Errorf("update-rc.d %s disable: %w\n%s", name, e, out))
			}
		}
	}
	return err
}

// lockFile is only accessible to root, so that no other user can hold it.
const lockFile = "/run/tproxy-cni-setup.lock"

// lock waits for another setup on this machine and reports that it waits: the
// policy file has one owner at a time.
func lock(ctx context.Context, errOut io.Writer) (unlock func(), err error) {
	file, err := os.OpenFile(lockFile, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for said := false; ; {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if err == syscall.EWOULDBLOCK && !said {
			said = true
			fmt.Fprintln(errOut, "setup: waiting for another make that is installing packages")
		}
		if err != syscall.EWOULDBLOCK && err != syscall.EINTR {
			file.Close()
			return nil, os.NewSyscallError("flock", err)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			file.Close()
			return nil, ctx.Err()
		}
	}
}
