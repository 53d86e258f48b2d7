package probe

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/proxy/dial"
	"github.com/tproxy-cni/tproxy-cni/proxy/podstat"
	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
	"github.com/tproxy-cni/tproxy-cni/proxy/sys"
)

// connect connects to a listener of the pod as a relayed connection does. The error is
// a *Fault that names what is missing.
func connect(f family, ln *net.TCPListener, patience time.Duration) error {
	to := sock.AddrPort(ln.Addr())
	fd, err := sock.Dial(netip.AddrPortFrom(f.nobody, 0), to, false)
	if err != nil {
		return refusedSource(err)
	}
	defer sys.Close(fd)
	sys.ResetOnClose(fd)
	err = wait(fd, to, patience)
	if err == nil {
		return nil
	}
	const what = "cannot connect within the pod in a client's name: "
	if r := podstat.ReadRouting(f.nobody.Is6()); !r.Stays {
		return fault(Routing, what+"the plugin's routing rules are missing: "+wayOut(r))
	}
	if got, aerr := arrived(fd, ln); aerr == nil && !got {
		return fault(UID, fmt.Sprintf("%sthe nftables rules drop it: the plugin's proxy-uid is not this process's %d, "+
			"or the rules are not as the plugin made them", what, os.Getuid()))
	}
	return fault(Rules, fmt.Sprintf("%sthe plugin's nftables table is missing, or not as the plugin made it: %v", what, err))
}

// arrived reports whether the SYN of the socket fd got to the listener. Its request
// waits there, or has been dropped: because a router said that nobody has the source's
// address, say.
func arrived(fd int, ln *net.TCPListener) (bool, error) {
	from, err := sys.LocalAddr(fd)
	if err != nil {
		return false, os.NewSyscallError("getsockname", err)
	}
	raw, err := ln.SyscallConn()
	if err != nil {
		return false, err
	}
	drops := 0
	if err := raw.Control(func(fd uintptr) { drops = sys.Drops(int(fd)) }); err != nil || drops > 0 {
		return drops > 0, err
	}
	return podstat.Pending(from, sock.AddrPort(ln.Addr()))
}

// wait returns nil once fd is connected, os.ErrDeadlineExceeded if it is not in time.
func wait(fd int, to netip.AddrPort, patience time.Duration) error {
	for end := time.Now().Add(patience); ; {
		if done, err := sock.Connected(fd, to); done || err != nil {
			return err
		}
		left := time.Until(end)
		if left <= 0 {
			return os.ErrDeadlineExceeded
		}
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		if _, err := unix.Poll(poll, int(left/time.Millisecond)+1); err != nil && err != unix.EINTR {
			return os.NewSyscallError("poll", err)
		}
	}
}

// wayOut says where the answers to a client go instead of staying in the pod.
func wayOut(r podstat.Routing) string {
	if r.Marked == "" {
		return fmt.Sprintf("what carries the mark %#x has no route (%s)", contract.Mark, r.Error)
	}
	return fmt.Sprintf("what carries the mark %#x leaves by another way than table %d", contract.Mark, contract.RouteTable)
}

// refusedSource is the error of a call that took a foreign address: a *Fault if that
// was the reason, else err. EINVAL is connect's, where bind lets every address pass.
func refusedSource(err error) error {
	if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EINVAL) {
		return fault(Unprepared, dial.ErrUnprepared.Error())
	}
	return err
}
