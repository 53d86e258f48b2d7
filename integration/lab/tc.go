package lab

import (
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// FilterInChain5 adds a tc filter of the packet guard's name, the BPF program fd, at the
// egress of a link with a clsact qdisc, in a chain to which no packet comes. It works in the
// namespace of the calling thread and needs CAP_NET_ADMIN.
func FilterInChain5(link string, fd int) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	chain := uint32(5)
	return netlink.FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_MIN_EGRESS, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1, Chain: &chain,
		},
		Fd: fd, Name: contract.Table, DirectAction: true,
	})
}
