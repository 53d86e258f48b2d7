package redirect

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// earlyDemux, on by default and for both families, looks for a packet's socket
// before NAT at the input hook may have given the packet another source port.
// With one client port towards two ports of the pod, nat mode redirects both to
// the sidecar's; the second connection's packets then found the first one's
// socket, and the client hung. Linux corrects itself since "netfilter: nf_nat:
// undo erroneous tcp edemux lookup after port clash", of 2023. Before, it has to
// do without; a packet's route is then looked up, which costs little.
const earlyDemux = "net/ipv4/tcp_early_demux"

// demuxErrs tells whether nat mode must do without earlyDemux on this kernel.
func demuxErrs(mode string) bool {
	var name unix.Utsname
	if mode != contract.ModeNAT || unix.Uname(&name) != nil {
		return false
	}
	return demuxErrsOn(unix.ByteSliceToString(name.Release[:]))
}

// demuxErrsOn goes by the version: the error shows in no other way, and where a
// distribution has corrected it in an older one, little is lost.
func demuxErrsOn(release string) bool {
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n != 2 {
		return false
	}
	return major < 6 || major == 6 && minor < 7
}

func readEarlyDemux(pod ns.NetNS) (value string, err error) {
	err = pod.Do(func(ns.NetNS) error {
		b, err := os.ReadFile(sysctlDir + earlyDemux)
		value = strings.TrimSpace(string(b))
		return err
	})
	return value, wrap("read sysctl", err)
}

// setEarlyDemux leaves the value as it is where /proc/sys is read-only, in an
// init container: interception works without, but for such a pair of ports.
func setEarlyDemux(pod ns.NetNS, value string) error {
	if have, err := readEarlyDemux(pod); err != nil || have == value {
		return err
	}
	return pod.Do(func(ns.NetNS) error {
		err := os.WriteFile(sysctlDir+earlyDemux, []byte(value), 0o644)
		if errors.Is(err, unix.EROFS) {
			return nil
		}
		return wrap("set sysctl "+strings.ReplaceAll(earlyDemux, "/", ".")+"="+value, err)
	})
}
