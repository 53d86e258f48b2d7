// Package contract holds the facts that the programs, the manifests and the
// kernel state of a pod must agree on. Nothing else lives here, and it imports
// nothing.
package contract

// Names by which the kernel, the runtime and a sysadmin know us.
const (
	// PluginType is the CNI plugin's name: the "type" of its conflist entry
	// and the name of its binary.
	PluginType = "tproxy-cni"

	// Table is the name of our nftables tables (families inet and netdev) in
	// a pod's network namespace. It is no nft keyword, so that
	// `nft list table inet tproxy_cni` can name it.
	Table = "tproxy_cni"

	// AnnotationPrefix begins every pod annotation of ours.
	AnnotationPrefix = "tproxy-cni.io/"

	// AnnotationsCapability is the runtime capability through which a CNI
	// runtime hands a pod's annotations to the plugin (containerd since 1.5,
	// CRI-O since 1.29); also their key in runtimeConfig.
	AnnotationsCapability = "io.kubernetes.cri.pod-annotations"
)

// Modes of interception.
const (
	ModeNAT    = "nat"    // nftables redirect; the sidecar has no capability
	ModeTProxy = "tproxy" // nftables tproxy; the sidecar has NET_RAW while it opens its listener
	ModeNone   = "none"   // the pod is left alone although the node has a default mode
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

	// ProxyUID is the sidecar's user id, by which the rules tell it from
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

	// SpoofPortLow and SpoofPortHigh bound, inclusively, the source ports of
	// the spoofed leg when it cannot have the client's own: above the
	// privileged ports, below the ranges that clients take theirs from
	// (Linux 32768-60999, IANA and most others 49152-65535).
	SpoofPortLow  = 1024
	SpoofPortHigh = 32767
)
