// Package contract holds the facts that the programs, the manifests and the
// kernel state of a pod must agree on. Nothing else lives here, and it imports
// nothing.
package contract

// Names by which the kernel, the runtime and a sysadmin know the plugin.
const (
	// PluginType is the CNI plugin's name: the "type" of its conflist entry
	// and the name of its binary.
	PluginType = "tproxy-cni"

	// Table is the name of our nftables tables (families inet and netdev) in
	// a pod's network namespace. It is not an nft keyword, so that
	// `nft list table inet tproxy_cni` can name it.
	Table = "tproxy_cni"

	// AnnotationPrefix begins every pod annotation that the plugin reads.
	AnnotationPrefix = "tproxy-cni.io/"

	// AnnotationsCapability is the runtime capability through which a CNI
	// runtime hands a pod's annotations to the plugin (containerd since 1.5,
	// CRI-O since 1.29); also their key in runtimeConfig.
	AnnotationsCapability = "io.kubernetes.cri.pod-annotations"
)

// Mode is how a pod's inbound connections are intercepted. The zero value is not
// a mode, and is refused wherever one is needed.
type Mode string

// The modes. The constants are untyped so that a program can compare them with a
// flag's text; a text itself becomes a Mode only by an explicit conversion, which
// package settings does after it has checked it.
const (
	ModeNAT    = "nat"    // nftables redirect; the sidecar has no capability
	ModeTProxy = "tproxy" // nftables tproxy; the sidecar has NET_RAW while it opens its listener
	ModeNone   = "none"   // the pod is left alone although the node has a default mode
)

// PacketGuard is what a pod asks for where the kernel has no hook for the whole
// packet guard, which stops frames of packet sockets on the CNI interface. The zero
// value is none of them.
type PacketGuard string

// The choices; untyped as the modes are.
const (
	PacketGuardRequired   = "required"    // without the whole guard the pod does not start
	PacketGuardBestEffort = "best-effort" // the next best guard, and at worst none
)

// Guard is the packet guard that is in force in a pod. The texts are for JSON and
// metrics.
type Guard string

// The guards, the strictest first.
const (
	GuardNFT  = "nft"  // the whole: nftables' netdev egress hook
	GuardTC   = "tc"   // a tc egress filter, which PACKET_QDISC_BYPASS goes round
	GuardNone = "none" // none on the CNI interface; that on lo is there
)

// Numbers.
const (
	// ProxyPort is the sidecar's default listening port (TCP).
	ProxyPort = 5000

	// AdminPort is the default port of the sidecar's health endpoint (TCP);
	// it is never intercepted.
	AdminPort = 5001

	// EchoPort is the echo-server's default port (TCP).
	EchoPort = 3000

	// ProxyUID is the sidecar's user id, by which the rules distinguish it from
	// everything else in the pod: only this uid may open a connection from
	// an address that is not the pod's. It is our own (after
	// linkerd/linkerd2#7089) and not a common one such as distroless'
	// nonroot 65532, because a container that shares it could spoof too.
	ProxyUID = 7089

	// Mark is the fwmark bit of the spoofed leg, the connection between
	// sidecar and application over lo. It is also its own mask: every rule
	// tests and sets this one bit and leaves the others alone. The bit is
	// free in the marks known to be used inside pods: istio's 0x539,
	// wg-quick's 0xca6c; kubelet's 0x4000 and 0x8000, Cilium's 0x0f00 and
	// Calico's 0xffff0000 live in the node's namespace and would not clash
	// either. It grants nothing: see the ruleset.
	Mark = 0x1000

	// RouteTable is the IPv6 routing table that makes every address local to
	// packets with Mark. The number spells "tp"; 100 and up are the sbr
	// plugin's, 253 to 255 the kernel's.
	RouteTable = 0x7470

	// RouteProtocolNAT and RouteProtocolTProxy are what the plugin's routes name as
	// their origin (rtm_protocol), by which every process of the pod can tell for
	// which mode the pod was programmed. They spell "n" and "t"; none is known to
	// be used, see /etc/iproute2/rt_protos.
	RouteProtocolNAT    = 'n'
	RouteProtocolTProxy = 't'

	// RouteProtocolGuardTC and RouteProtocolGuardNone are the origin of one more
	// route on lo in RouteTable, with the metric GuardMetric, in a pod without the
	// whole packet guard: every process of the pod can tell by it which guard the
	// plugin has set up. They spell "f" (filter) and "x". No such route means
	// GuardNFT, as every earlier version programs it.
	RouteProtocolGuardTC   = 'f'
	RouteProtocolGuardNone = 'x'
	GuardMetric            = 4096

	// SpoofPortLow and SpoofPortHigh bound, inclusively, the source ports of
	// the spoofed leg when it cannot have the client's own: above the
	// privileged ports, below the ranges that clients take theirs from
	// (Linux 32768-60999, IANA and most others 49152-65535).
	SpoofPortLow  = 1024
	SpoofPortHigh = 32767
)

// Interceptors are programs that take a pod's inbound connections as the sidecar does:
// the port to which their rules send them and the user that listens there, by their
// own defaults.
var Interceptors = []struct {
	Name string
	Port uint16
	UID  uint32
}{
	{"istio", 15006, 1337},
	{"linkerd", 4143, 2102},
}
