package intercept

import (
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// scratchPeer is the other end of the scratch namespace's cable.
const scratchPeer = "scratch"

// scratch calls f with the path of a new network namespace that has lo and an
// interface of that name, and is gone afterwards. It needs CAP_SYS_ADMIN.
func scratch(ifname string, f func(path string) error) error {
	done := make(chan error)
	go func() {
		// Never unlocked: the thread dies with the goroutine, and the
		// namespace with the thread.
		runtime.LockOSThread()
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return os.NewSyscallError("unshare", err)
			}
			link := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: scratchPeer}
			if link.Name = ifname; ifname == link.PeerName {
				link.PeerName += "1"
			}
			if err := netlink.LinkAdd(link); err != nil {
				return fmt.Errorf("add interface %s: %w", ifname, err)
			}
			if err := netlink.LinkSetUp(link); err != nil { // routes need it
				return fmt.Errorf("set interface %s up: %w", ifname, err)
			}
			return f(fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid()))
		}()
	}()
	return <-done
}
