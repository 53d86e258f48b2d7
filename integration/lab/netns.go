package lab

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// netnsDir is where `ip netns` and container runtimes keep their namespaces.
const netnsDir = "/run/netns"

// serial makes the names of one process's namespaces unique.
var serial atomic.Int64

// NS is a network namespace with a name that `ip netns` knows.
type NS struct {
	t    TB
	name string
}

// New makes a namespace, empty and with lo down as a container runtime makes
// it. It is removed at the end of the test, after the processes in it.
func New(t TB, name string) *NS {
	t.Helper()
	return made(t, name, func(name string) error {
		return onThread(func() error {
			fd, err := netns.NewNamed(name)
			if err == nil {
				err = fd.Close()
			}
			return err
		})
	})
}

// made is New with a function that makes the namespace.
func made(t TB, name string, by func(name string) error) *NS {
	t.Helper()
	Need(t, "ip", "setpriv")
	ns := &NS{t: t, name: fmt.Sprintf("lab%d-%d-%s", os.Getpid(), serial.Add(1), name)}
	if err := by(ns.name); err != nil {
		t.Fatalf("make namespace %s: %v", ns.name, err)
	}
	t.Cleanup(ns.Remove)
	// No other host is on the lab's links: an IPv6 address, link-local ones
	// included, need not wait a second for duplicate address detection.
	ns.Sysctl("net.ipv6.conf.default.accept_dad", "0")
	return ns
}

// Name is the namespace's name for `ip netns exec`.
func (ns *NS) Name() string { return ns.name }

// Path is the namespace's file, as in CNI_NETNS.
func (ns *NS) Path() string { return filepath.Join(netnsDir, ns.name) }

// Up sets lo up and returns ns.
func (ns *NS) Up() *NS {
	ns.t.Helper()
	ns.links("set lo up", func() error { return setUp("lo") })
	return ns
}

// Remove kills every process in the namespace and removes it. It does nothing the
// second time.
func (ns *NS) Remove() {
	if _, err := os.Stat(ns.Path()); err != nil {
		return
	}
	// Processes may fork while they are being ended: look until none is left.
	for range 100 {
		pids := ns.Pids()
		if len(pids) == 0 {
			break
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(time.Millisecond)
	}
	if err := netns.DeleteNamed(ns.name); err != nil {
		ns.t.Logf("remove namespace %s: %v", ns.name, err)
	}
}

// Pids lists the processes whose namespace this is, except our own: one of our
// threads may be the leader of the process and yet inside.
func (ns *NS) Pids() (pids []int) {
	var here, there unix.Stat_t
	if unix.Stat(ns.Path(), &here) != nil {
		return nil
	}
	files, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	for _, file := range files {
		if unix.Stat(file, &there) != nil || there.Ino != here.Ino || there.Dev != here.Dev {
			continue
		}
		if pid, err := strconv.Atoi(strings.Split(file, "/")[2]); err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Do runs f on a thread inside the namespace and returns its error. Sockets
// that f opens stay in the namespace for their life; goroutines that f starts
// are outside of it.
func (ns *NS) Do(f func() error) error {
	askIP()
	return onThread(func() error {
		if err := ns.enter(); err != nil {
			return err
		}
		return f()
	})
}

// onThread runs f on a thread of its own, which ends with f: one that was in
// another namespace is not given back to the scheduler.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good
		done <- f()
	}()
	return <-done
}

// askIP makes package net find out which IP versions the kernel has. It probes once,
// with sockets on lo, in the namespace where the process opens its first socket: in
// a pod whose lo is down it would find IPv4 only, and "[::]" would mean 0.0.0.0 from
// then on.
var askIP = sync.OnceFunc(func() {
	_ = onThread(func() error {
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = setUp("lo")
		}
		if err == nil {
			var l net.Listener
			if l, err = net.Listen("tcp", ":0"); err == nil {
				l.Close()
			}
		}
		return err
	})
})

func (ns *NS) enter() error {
	fd, err := unix.Open(ns.Path(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open namespace %s: %w", ns.name, os.NewSyscallError("open", err))
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter namespace %s: %w", ns.name, os.NewSyscallError("setns", err))
	}
	return nil
}

// Try runs a program in the namespace and returns what it wrote to stdout and
// stderr. It is given a minute, and more on a slow computer.
func (ns *NS) Try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit(time.Minute))
	defer cancel()
	return ns.TryCmd(command(ctx, args...))
}

// TryCmd is Try for a command that needs more than arguments.
func (ns *NS) TryCmd(cmd *exec.Cmd) (string, error) {
	var out Output
	cmd.Stdout, cmd.Stderr = &out, &out
	apart(cmd)
	if err := ns.Do(cmd.Start); err != nil {
		return "", err
	}
	err := cmd.Wait()
	return out.String(), err
}

// Run is Try that ends the test on an error.
func (ns *NS) Run(args ...string) string {
	ns.t.Helper()
	out, err := ns.Try(args...)
	if err != nil {
		ns.t.Fatalf("%s in %s: %v\n%s", strings.Join(args, " "), ns.name, err, out)
	}
	return out
}

// Sysctl writes a setting of the namespace: Sysctl("net.ipv4.ip_forward", "1").
// Where an interface's name has a dot, give the key with slashes.
func (ns *NS) Sysctl(key, value string) {
	ns.t.Helper()
	if !strings.Contains(key, "/") {
		key = strings.ReplaceAll(key, ".", "/")
	}
	err := ns.Do(func() error { return os.WriteFile(filepath.Join("/proc/sys", key), []byte(value), 0) })
	if err != nil {
		ns.t.Fatalf("set %s to %s in %s: %v", key, value, ns.name, err)
	}
}

// Listen listens inside the namespace.
func (ns *NS) Listen(network, address string) (net.Listener, error) {
	var l net.Listener
	err := ns.Do(func() (err error) {
		l, err = net.Listen(network, address)
		return err
	})
	return l, err
}

// waitDelay is how long to wait for the pipe of a program that has ended: its
// children may keep it open.
const waitDelay = 2 * time.Second

// apart puts a program into a process group of its own, which Ctrl-C does not
// reach: the interrupted test ends it in order, instead of seeing it fail first.
func apart(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
}

// command is exec.CommandContext with the search of Look.
func command(ctx context.Context, args ...string) *exec.Cmd {
	path := args[0]
	if found, err := Look(path); err == nil {
		path = found
	}
	cmd := exec.CommandContext(ctx, path, args[1:]...)
	cmd.Args[0] = args[0]
	cmd.WaitDelay = min(limit(waitDelay), 30*time.Second) // the last of its output takes its time, too
	return cmd
}
