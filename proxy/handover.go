package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
)

// Listeners go from one program to the next as systemd hands them over,
// sd_listen_fds(3): open descriptors from firstHanded on, their number in LISTEN_FDS,
// for the process LISTEN_PID alone.
const (
	firstHanded = 3
	listenPID   = "LISTEN_PID"
	listenFDs   = "LISTEN_FDS"
)

// openListener takes the listener that was handed over to this process, or opens one,
// for which tproxy mode needs NET_RAW.
func openListener(ctx context.Context, c config) (*net.TCPListener, error) {
	transparent := c.mode == contract.ModeTProxy
	if os.Getenv(listenPID) == strconv.Itoa(os.Getpid()) {
		if c.hold != "" {
			return nil, errors.New("--hold does not go with a listener that LISTEN_FDS hands over: its port would be the holder's at the next start")
		}
		if n := os.Getenv(listenFDs); n != "1" {
			return nil, fmt.Errorf("LISTEN_FDS is %s, but the sidecar takes one listener for both families: tproxy-proxy listen --dual-stack", printable.Quote(n))
		}
		ln, err := sock.Inherit(firstHanded, transparent)
		if err != nil {
			return nil, fmt.Errorf("the listener that LISTEN_FDS hands over: %w", err)
		}
		return ln, nil
	}
	if transparent {
		return sock.Listen(ctx, c.addr, sock.Transparent)
	}
	return sock.Listen(ctx, c.addr)
}

// whyNoNetRaw explains the EPERM of a transparent listener.
func whyNoNetRaw() error {
	if on, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err == nil && on == 1 {
		return fmt.Errorf("%w; no_new_privs is set (allowPrivilegeEscalation: false): then a file capability works only for the first program of a container with the runtime's default set", errNoNetRaw)
	}
	return errNoNetRaw
}

// renounceCapabilities gives up every capability for this process and the programs that
// it becomes: with no_new_privs no file, set-uid bit or uid 0 brings one back. It
// empties the bounding set, too, where it may (SETPCAP); with no_new_privs that is for
// the eye.
func renounceCapabilities() error {
	set, err := cap.GetPID(0)
	if err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	if may, err := set.GetFlag(cap.Permitted, cap.SETPCAP); err == nil && may {
		err = set.SetFlag(cap.Effective, true, cap.SETPCAP)
		if err == nil {
			err = set.SetProc()
		}
		for c := cap.Value(0); err == nil && c < cap.MaxBits(); c++ {
			err = cap.DropBound(c)
		}
		if err != nil {
			return fmt.Errorf("empty the bounding set: %w", err)
		}
	}
	if _, err := cap.Prctlw(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	return dropCapabilities()
}

// closeOnExec gives this thread a table of descriptors of its own, in which exec closes
// all from firstHanded on. Linux before 5.11 has no close_range that marks them.
func closeOnExec() error {
	err := unix.CloseRange(firstHanded, math.MaxUint32, unix.CLOSE_RANGE_UNSHARE|unix.CLOSE_RANGE_CLOEXEC)
	if !errors.Is(err, unix.EINVAL) {
		return os.NewSyscallError("close_range", err)
	}
	if err := unix.Unshare(unix.CLONE_FILES); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	list, err := os.ReadDir("/proc/thread-self/fd")
	if err != nil {
		return err
	}
	for _, entry := range list {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil || fd < firstHanded {
			continue
		}
		// The directory's own is closed by now.
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil && !errors.Is(err, unix.EBADF) {
			return os.NewSyscallError("fcntl", err)
		}
	}
	return nil
}

// become replaces this program by another, whose descriptors are 0, 1 and 2 and, from
// firstHanded on, fds. It returns only if that fails; the process must end then.
func become(path string, command, env []string, fds []int) error {
	// Go's runtime has descriptors too, perhaps with these very numbers, and other
	// threads use them until the end: this thread gets a table of its own.
	runtime.LockOSThread()
	if err := closeOnExec(); err != nil {
		return err
	}
	above := make([]int, len(fds)) // out of each other's way
	for i, fd := range fds {
		var err error
		if above[i], err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, firstHanded+len(fds)); err != nil {
			return os.NewSyscallError("fcntl", err)
		}
	}
	for i, fd := range above {
		if err := unix.Dup3(fd, firstHanded+i, 0); err != nil {
			return os.NewSyscallError("dup3", err)
		}
	}
	return &os.PathError{Op: "exec", Path: path, Err: unix.Exec(path, command, env)}
}
