package intercept

import (
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// frames are the chains of table netdev, for what never passes chain output:
// frames of packet sockets. A packet with a route came through it, or is
// forwarded; a frame without a socket is bridged. Nothing comes by lo without a
// route.
//
// The interface's chain comes last: v0.1.0, which had no other, takes the last one's
// device for the pod's interface, and would neither program such a pod anew nor take
// anything out of it.
func frames(c Config) []chain {
	routed := nft(present(expr.MetaKeyRTCLASSID), accept)
	return []chain{
		{
			"ingress_lo", nftables.ChainTypeFilter, nftables.ChainHookIngress, nftables.ChainPriorityFilter, "lo",
			[]rule{
				{"lets in what passed chain output", routed},
				{"drops frames of packet sockets and AF_XDP", nft(count(counterFramesDropped), drop)},
			},
		},
		{
			"egress", nftables.ChainTypeFilter, nftables.ChainHookEgress, nftables.ChainPriorityFilter, c.Interface,
			[]rule{
				{"lets out what passed chain output or is forwarded", routed},
				{"drops frames of packet sockets", nft(present(expr.MetaKeySKUID), count(counterFramesDropped), drop)},
			},
		},
	}
}
