package lab

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// Feature is something that some kernels lack, and that the programs under test do
// without there: without it a test has no subject.
type Feature struct {
	Name  string
	probe func(TB) error // nil if the kernel has it
}

// The features. Each is probed: a distribution may have left it out, or taken it back.
var (
	// UDPLite is gone from Linux 7.1 on.
	UDPLite = Feature{"UDP-Lite", socket(unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE)}
	// MPTCP is Multipath TCP, a build option since Linux 5.6.
	MPTCP = Feature{"MPTCP", socket(unix.SOCK_STREAM, unix.IPPROTO_MPTCP)}
	// EgressHook is the hook of nftables by which a frame leaves a device, a build option
	// since Linux 5.16.
	EgressHook = Feature{"nft egress hook", nft("add table netdev probe; add chain netdev probe egress { type filter hook egress device lo priority 0; }")}
	// TableOwner is the flag of a table that the kernel removes with the process that
	// made it, since Linux 5.12.
	TableOwner = Feature{"nft table owner", nft("add table inet probe { flags owner; }")}
	// RawMark is that CAP_NET_RAW is enough to mark a socket's packets, since Linux 5.17.
	RawMark = Feature{"SO_MARK with CAP_NET_RAW", rawMark}
	// BigTCP is that a link may take segments of more than 64 kB: in IPv6 since Linux 5.19,
	// in IPv4 since 6.3.
	BigTCP = Feature{"BIG TCP", bigTCP}
)

// Lacks begins the text of a test that is skipped for want of a feature; its name and
// what the kernel said follow, with a colon between.
const Lacks = "this kernel lacks "

// MayLack is the variable of the environment that names the features, with commas
// between them, that the kernel under test is known to lack.
const MayLack = "LAB_MAY_LACK"

// NeedKernel skips a test whose subject the kernel lacks; see [Has] for CI.
func NeedKernel(t TB, f Feature) {
	t.Helper()
	if !Has(t, f) {
		t.Skipf("%s%s: %v", Lacks, f.Name, f.missing(t))
	}
}

// Has reports whether the kernel has the feature. Where CI is set in the environment
// a kernel that lacks it fails the test, unless LAB_MAY_LACK names the feature, so that
// no kernel loses one unnoticed.
func Has(t TB, f Feature) bool {
	t.Helper()
	err := f.missing(t)
	if err != nil && os.Getenv("CI") != "" && !slices.Contains(strings.Split(os.Getenv(MayLack), ","), f.Name) {
		t.Fatalf("%s%s: %v; name it in %s if that is to be so", Lacks, f.Name, err, MayLack)
	}
	return err == nil
}

// PacketGuard is what pods of a test ask of the packet guard: the whole one, but where the
// kernel lacks the hook for it.
func PacketGuard(t TB) contract.PacketGuard {
	t.Helper()
	if Has(t, EgressHook) {
		return contract.PacketGuardRequired
	}
	return contract.PacketGuardBestEffort
}

// probed are the answers to probes, by the feature's name: the kernel does not change.
var probed = struct {
	sync.Mutex
	missing map[string]error
}{missing: map[string]error{}}

// missing is what the kernel says of a feature that it lacks; nil if it has it.
func (f Feature) missing(t TB) error {
	t.Helper()
	probed.Lock()
	err, known := probed.missing[f.Name]
	probed.Unlock()
	if !known {
		err = f.probe(t)
		probed.Lock()
		probed.missing[f.Name] = err
		probed.Unlock()
	}
	return err
}

// socket probes for a protocol of the internet's.
func socket(kind, protocol int) func(TB) error {
	return func(TB) error {
		fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, protocol)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		return os.NewSyscallError("close", unix.Close(fd))
	}
}

// nft probes by commands of nft, in a namespace of its own.
func nft(commands string) func(TB) error {
	return func(t TB) error {
		t.Helper()
		Need(t, "nft")
		ns := New(t, "probe")
		defer ns.Remove()
		out, err := ns.Try("nft", commands)
		if err == nil {
			return nil
		}
		// What the kernel says of a hook and of a flag that it does not know.
		for _, refused := range []error{unix.EOPNOTSUPP, unix.EINVAL} {
			if strings.Contains(strings.ToLower(out+err.Error()), refused.Error()) {
				return fmt.Errorf("nft: %w", refused)
			}
		}
		t.Fatalf("nft %s: %v\n%s", commands, err, out)
		return err
	}
}

// rawMark probes for SO_MARK with CAP_NET_RAW alone.
func rawMark(t TB) error {
	t.Helper()
	Need(t, "socat")
	ns := New(t, "probe").Up()
	defer ns.Remove()
	const mark = "setsockopt-int=1:36:1" // SOL_SOCKET, SO_MARK
	out, err := ns.TryAs(User{Caps: []string{"net_raw"}}, "socat", "-u", "OPEN:/dev/null", "UDP4-SENDTO:127.0.0.1:9,"+mark)
	if err != nil && !strings.Contains(strings.ToLower(out), unix.EPERM.Error()) {
		t.Fatalf("socat: %v\n%s", err, out)
	}
	if err != nil {
		return os.NewSyscallError("setsockopt", unix.EPERM)
	}
	return nil
}

// bigTCP probes for segments that the links before it did not take.
func bigTCP(t TB) error {
	t.Helper()
	ns := New(t, "probe")
	defer ns.Remove()
	err := ns.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return os.NewSyscallError("gso_max_size", netlink.LinkSetGSOMaxSize(lo, 1<<17))
	})
	if err != nil && !errors.Is(err, unix.EINVAL) {
		t.Fatalf("%v", err)
	}
	return err
}
