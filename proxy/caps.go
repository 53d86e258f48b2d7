package main

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// The sidecar's privileged moment is as short as possible. The binary has the file
// capability cap_net_raw=p: permitted where the container allows it, but not
// effective, so the binary also starts where the container drops all capabilities.
// It is raised and dropped on all threads: the listener may be opened on any.

var errNoNetRaw = errors.New("this process lacks the capability NET_RAW, which tproxy mode needs to open its listener: " +
	"leave the container without a `capabilities` section, so that it has the runtime's default set, " +
	"and the binary with its file capability (setcap cap_net_raw=p tproxy-proxy); or use --mode nat, which needs none")

// privileged runs open with NET_RAW effective, if it is permitted, then gives up
// every capability for good.
func privileged(open func() (*net.TCPListener, error)) (*net.TCPListener, error) {
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
	if err := dropCapabilities(); err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}

// raiseNetRaw makes NET_RAW effective where it is permitted. Where it is not, the
// call that needs it fails, and that error says more.
func raiseNetRaw() error {
	set, err := cap.GetPID(0)
	if err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	if permitted, err := set.GetFlag(cap.Permitted, cap.NET_RAW); err != nil || !permitted {
		return err
	}
	if err := set.SetFlag(cap.Effective, true, cap.NET_RAW); err != nil {
		return err
	}
	if err := set.SetProc(); err != nil {
		return fmt.Errorf("raise NET_RAW: %w", err)
	}
	return nil
}

// dropCapabilities empties the effective, permitted and inheritable sets of all
// threads, and with them the ambient set. Dialling needs none: with the plugin's
// routing every process may bind a foreign source address.
func dropCapabilities() error {
	set, err := cap.GetPID(0)
	if err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	none := cap.NewSet()
	if d, err := set.Cf(none); err != nil || d == 0 {
		return err
	}
	if err := none.SetProc(); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return nil
}
