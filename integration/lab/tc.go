package lab

import (
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/bpf"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// FilterInChain5 adds a tc filter of the packet guard's name at the egress of a link with a
// clsact qdisc, in a chain to which no packet comes. It works in the namespace of the
// calling thread and needs CAP_NET_ADMIN and CAP_BPF.
func FilterInChain5(link string, program []bpf.Instruction) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	fd, err := bpf.LoadClassifier(contract.Table, program)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	chain := uint32(5)
	return netlink.FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_MIN_EGRESS, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1, Chain: &chain,
		},
		Fd: fd, Name: contract.Table, DirectAction: true,
	})
}
