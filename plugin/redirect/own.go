package redirect

import (
	"fmt"
	"os"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// ownNS is the namespace that we are in ourselves, as an init container is in
// its pod's. It is never entered, because setns(2) wants CAP_SYS_ADMIN even
// where it would change nothing; so CAP_NET_ADMIN is enough to program it.
type ownNS struct{ ns.NetNS }

func (o ownNS) Do(f func(ns.NetNS) error) error { return f(o) }

// Fd is 0, which for the netlink libraries means: where the calling thread is.
func (ownNS) Fd() uintptr { return 0 }

// getNS opens the namespace at path.
func getNS(path string) (ns.NetNS, error) {
	pod, err := ns.GetNS(path)
	if err != nil {
		return nil, err
	}
	own, err := isOwn(path)
	if err != nil {
		_ = pod.Close()
		return nil, err
	}
	if own {
		return ownNS{pod}, nil
	}
	return pod, nil
}

// isOwn tells whether the whole process is in the namespace at path: its first
// thread and the calling one. A goroutine that is on another thread later is
// in the same then, unless it has locked itself to one elsewhere.
func isOwn(path string) (bool, error) {
	want, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	for _, own := range []string{"/proc/self/ns/net", fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())} {
		have, err := os.Stat(own)
		if err != nil {
			return false, err
		}
		if !os.SameFile(want, have) {
			return false, nil
		}
	}
	return true, nil
}

func newHandle(pod ns.NetNS) (*netlink.Handle, error) {
	if _, own := pod.(ownNS); own {
		return netlink.NewHandle(unix.NETLINK_ROUTE)
	}
	return netlink.NewHandleAt(netns.NsHandle(pod.Fd()), unix.NETLINK_ROUTE)
}
