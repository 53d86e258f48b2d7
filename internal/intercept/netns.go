package intercept

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// ownNS is the namespace that this process is in, as an init container is in
// its pod's. It is never entered, because setns(2) needs CAP_SYS_ADMIN even
// where it would change nothing; so CAP_NET_ADMIN is enough to program it.
type ownNS struct{ ns.NetNS }

func (o ownNS) Do(f func(ns.NetNS) error) error { return f(o) }

// Fd is 0, which for the netlink libraries means: where the calling thread is.
func (ownNS) Fd() uintptr { return 0 }

// NoNetNS is the error for a path at which there is no network namespace.
type NoNetNS struct{ Path, Why string }

func (e NoNetNS) Error() string {
	return fmt.Sprintf("no network namespace at %s: %s", printable.Quote(e.Path), e.Why)
}

// openNetNS opens the namespace at path. It neither blocks nor has a side effect,
// whatever file is there: opening a pipe waits for its other end, and opening a
// device may do anything. So the path is first resolved with O_PATH, the result
// is inspected, and that same file, not the path again, is opened.
func openNetNS(path string) (*os.File, error) {
	found, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP),
		errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ESRCH):
		return nil, NoNetNS{path, err.Error()}
	case err != nil:
		return nil, fmt.Errorf("open network namespace %s: %w", printable.Quote(path), err)
	}
	defer unix.Close(found)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(found, &fs); err != nil {
		return nil, fmt.Errorf("look at %s: %w", printable.Quote(path), os.NewSyscallError("fstatfs", err))
	}
	if fs.Type != unix.NSFS_MAGIC {
		return nil, NoNetNS{path, "it is a " + kindOf(found) + ", not a namespace's file"}
	}
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", found))
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", printable.Quote(path), err)
	}
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err == nil && kind != unix.CLONE_NEWNET {
		err = NoNetNS{path, "it is a namespace of another kind"}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func kindOf(fd int) string {
	var st unix.Stat_t
	_ = unix.Fstat(fd, &st)
	kinds := map[uint32]string{
		unix.S_IFREG: "regular file", unix.S_IFDIR: "directory", unix.S_IFIFO: "pipe", unix.S_IFSOCK: "socket",
		unix.S_IFCHR: "character device", unix.S_IFBLK: "block device",
	}
	return cmp.Or(kinds[st.Mode&unix.S_IFMT], "file of another kind")
}

// getNS opens the namespace at path.
func getNS(path string) (ns.NetNS, error) {
	f, err := openNetNS(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	opened := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	pod, err := ns.GetNS(opened)
	if err != nil {
		return nil, err
	}
	own, err := isOwn(opened)
	if err != nil {
		_ = pod.Close()
		return nil, err
	}
	if own {
		return ownNS{pod}, nil
	}
	return pod, nil
}

// IsOwn reports whether the network namespace at path is this process's own. Its
// error is a NoNetNS where there is none, and else the kernel's. It needs no
// privilege but to reach path.
func IsOwn(path string) (bool, error) {
	f, err := openNetNS(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	return isOwn(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
}

// isOwn reports whether the whole process is in the namespace at path: its first
// thread and the calling one. A goroutine that moves to another thread later is
// still in it, unless it has locked itself to a thread elsewhere.
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

// idRange is a range of user ids, both ends included, as a rule's uidrange is.
type idRange [2]uint32

// usersOf are the ids that a rule of this process's can name in a network namespace: those
// of its user namespace if the network namespace belongs to that, and else none, as in a
// pod with hostUsers: false (fib_nl2rule in the kernel's net/core/fib_rules.c). A rule
// of others can there be neither made nor deleted.
func usersOf(pod ns.NetNS) ([]idRange, error) {
	if own, ok := pod.(ownNS); ok {
		pod = own.NetNS
	}
	fd, err := unix.IoctlRetInt(int(pod.Fd()), unix.NS_GET_USERNS)
	switch {
	case errors.Is(err, unix.EPERM): // it is beyond this process's
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("find the user namespace of a network namespace: %w", os.NewSyscallError("ioctl", err))
	}
	owner := os.NewFile(uintptr(fd), "user namespace")
	defer owner.Close()
	there, err := owner.Stat()
	if err != nil {
		return nil, err
	}
	here, err := os.Stat("/proc/self/ns/user")
	if err != nil || !os.SameFile(here, there) {
		return nil, err
	}
	return mappedIDs()
}

// mappedIDs are the ids that this process's user namespace has: user_namespaces(7).
func mappedIDs() (all []idRange, err error) {
	const path = "/proc/self/uid_map"
	m, err := os.ReadFile(path)
	for line := range bytes.Lines(m) {
		var first, outside, n uint32
		if _, err := fmt.Sscan(string(line), &first, &outside, &n); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, idRange{first, first + n - 1})
	}
	return all, err
}

func newHandle(pod ns.NetNS) (*netlink.Handle, error) {
	if _, own := pod.(ownNS); own {
		return netlink.NewHandle(unix.NETLINK_ROUTE)
	}
	return netlink.NewHandleAt(netns.NsHandle(pod.Fd()), unix.NETLINK_ROUTE)
}
