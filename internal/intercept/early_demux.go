package intercept

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// earlyDemuxErrs reports whether this kernel must do without early demux in nat
// mode.
//
// Early demux, on by default and for both families, looks for a packet's socket
// before NAT at the input hook may have given the packet another source port.
// With one client port towards two ports of the pod, nat mode redirects both to
// the sidecar's; the second connection's packets then found the first one's
// socket, and the client hung. Linux corrects itself since "netfilter: nf_nat:
// undo erroneous tcp edemux lookup after port clash", of 2023. Without early
// demux a packet's route is looked up, which costs little; where the sysctl cannot
// be set, interception works but for such a pair of ports.
func earlyDemuxErrs() bool {
	var name unix.Utsname
	return unix.Uname(&name) == nil && demuxErrsOn(unix.ByteSliceToString(name.Release[:]))
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
