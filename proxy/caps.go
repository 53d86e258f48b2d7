package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// This file makes the one privileged moment of the sidecar as short as can be.
// The binary carries the file capability cap_net_raw=p: permitted where the
// container allows it, but not effective, so that it starts where the container
// drops all capabilities, too. Capabilities belong to threads.

var errNoNetRaw = errors.New("this process lacks the capability NET_RAW, which tproxy mode needs to open its listener: " +
	"leave the container without a `capabilities` section, so that it has the runtime's default set, " +
	"and the binary with its file capability (setcap cap_net_raw=p tproxy-proxy); or use --mode nat, which needs none")

// privileged runs open with NET_RAW effective, if it is permitted, then drop,
// which gives up every capability for good.
func privileged(open func() (*net.TCPListener, error), drop func() error) (*net.TCPListener, error) {
	runtime.LockOSThread() // between raise and the calls that need it
	defer runtime.UnlockOSThread()
	if err := raiseNetRaw(); err != nil {
		return nil, err
	}
	ln, err := open()
	if errors.Is(err, unix.EPERM) {
		err = fmt.Errorf("%w: %w", err, errNoNetRaw)
	}
	if err != nil {
		return nil, err
	}
	if err := drop(); err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}

// raiseNetRaw makes NET_RAW effective on the calling thread where it is
// permitted. Where it is not, the call that needs it says so better.
func raiseNetRaw() error {
	data, err := capabilities()
	if err != nil {
		return err
	}
	data[0].Effective |= data[0].Permitted & (1 << unix.CAP_NET_RAW)
	return os.NewSyscallError("capset", unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]))
}

// dropCapabilities empties the effective, permitted and inheritable sets of all
// threads, and with them the ambient set. The dial needs none: the plugin's
// routing makes a foreign source address bindable for everybody.
func dropCapabilities() error {
	if data, err := capabilities(); err != nil || data == [2]unix.CapUserData{} {
		return err
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET,
		uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none)), 0)
	switch errno {
	case 0:
		return nil
	case unix.ENOTSUP:
		return errors.New("drop capabilities: impossible with cgo: build with CGO_ENABLED=0")
	}
	return fmt.Errorf("drop capabilities: %w", os.NewSyscallError("capset", errno))
}

// capabilities reads the calling thread's sets: 64 bits as two words.
func capabilities() (data [2]unix.CapUserData, err error) {
	err = unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0])
	return data, os.NewSyscallError("capget", err)
}
