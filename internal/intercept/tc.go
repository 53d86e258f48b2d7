package intercept

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	mnl "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/bpf"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/lacks"
)

// The packet guard by tc, for kernels without a hook for chain egress: a filter of eBPF
// at the egress of the interface's clsact qdisc, by rtnetlink.
//
// A packet's route, by which chain egress tells what came through chain output, does
// not show there. The family of its socket does, and comes to the same: what sockets of
// IPv4 and IPv6 send has a route. AF_PACKET is the one family that matters; it drops all
// but those two, so that it also stops what a tap device or PPPoE sends, as the chain
// does.
var guardProgram = []bpf.Instruction{
	{Code: unix.BPF_LDX | unix.BPF_DW | unix.BPF_MEM, Dst: 1, Src: 1, Off: 168}, // r1 = skb->sk
	{Code: unix.BPF_JMP | unix.BPF_JEQ, Dst: 1, Off: 5},                         // no socket: the kernel's own, forwarded or bridged
	{Code: unix.BPF_LDX | unix.BPF_W | unix.BPF_MEM, Dst: 1, Src: 1, Off: 4},    // r1 = sk->family
	{Code: unix.BPF_JMP | unix.BPF_JEQ, Dst: 1, Off: 3, Imm: unix.AF_INET},
	{Code: unix.BPF_JMP | unix.BPF_JEQ, Dst: 1, Off: 2, Imm: unix.AF_INET6},
	{Code: unix.BPF_ALU64 | unix.BPF_MOV, Imm: int32(netlink.TC_ACT_SHOT)},
	{Code: unix.BPF_JMP | unix.BPF_EXIT},
	{Code: unix.BPF_ALU64 | unix.BPF_MOV, Imm: int32(netlink.TC_ACT_UNSPEC)}, // to the next filter, if any
	{Code: unix.BPF_JMP | unix.BPF_EXIT},
}

const (
	// guardPriority is the first: a filter before ours could let a frame out.
	guardPriority = 1

	// The filter's handle says who made the qdisc, and so who takes it away. Other
	// software has 1 and the like, in the same priority.
	handleFound = contract.RouteTable<<16 | 1 // it was there
	handleMade  = contract.RouteTable<<16 | 2
)

// filter is a tc filter as the kernel shows it.
type filter struct {
	handle, info uint32 // info has the priority and the protocol
	kind, name   string
	rest         string // options without those that differ between equal filters
}

func (f filter) ours() bool { return f.kind == "bpf" && f.name == contract.Table }

// does is what the filter does to a packet, and when.
func (f filter) does() string { return fmt.Sprintf("%x %s %s %x", f.info, f.kind, f.name, f.rest) }

func (f filter) String() string {
	return fmt.Sprintf("%s with pref %d and handle %#x", f.kind, f.info>>16, f.handle)
}

// filters are those of an interface's qdisc for both directions, in order.
type filters struct {
	qdisc           string // its kind: clsact, ingress, or empty if there is none
	dropped         uint32 // packets, of both directions
	egress, ingress []filter
}

// filters reads them; none of an interface that is gone.
func (p *pod) filters(ifname string) (f filters, err error) {
	link, err := p.link.LinkByName(ifname)
	var gone netlink.LinkNotFoundError
	switch {
	case errors.As(err, &gone):
		return f, nil
	case err != nil:
		return f, wrap("find interface", err)
	}
	index := link.Attrs().Index
	err = p.dumpTC(unix.RTM_GETQDISC, index, 0, func(_, parent, _ uint32, a map[uint16][]byte) {
		if parent != netlink.HANDLE_CLSACT {
			return
		}
		f.qdisc = cString(a[unix.TCA_KIND])
		// struct gnet_stats_queue: qlen, backlog, drops.
		if q := nested(a[unix.TCA_STATS2])[3]; len(q) >= 12 {
			f.dropped = binary.NativeEndian.Uint32(q[8:])
		}
	})
	if err != nil || f.qdisc != "clsact" {
		return f, wrap("list tc qdiscs", err)
	}
	for _, side := range []struct {
		parent uint32
		to     *[]filter
	}{{netlink.HANDLE_MIN_EGRESS, &f.egress}, {netlink.HANDLE_MIN_INGRESS, &f.ingress}} {
		err := p.dumpTC(unix.RTM_GETTFILTER, index, side.parent, func(handle, _, info uint32, a map[uint16][]byte) {
			if handle == 0 || number(a[unix.TCA_CHAIN]) != 0 {
				return // it stands for all of its priority, or is where no packet begins
			}
			options := nested(a[unix.TCA_OPTIONS])
			name := cString(options[tcaBPFName])
			delete(options, tcaBPFName)
			delete(options, tcaBPFID) // each loaded program has its own
			*side.to = append(*side.to, filter{handle, info, cString(a[unix.TCA_KIND]), name, fmt.Sprint(options)})
		})
		if err != nil {
			return f, wrap("list tc filters", err)
		}
	}
	return f, nil
}

// Of linux/pkt_cls.h, and struct tcmsg of linux/rtnetlink.h: family and padding,
// interface, handle, parent, info, 4 bytes each.
const (
	sizeofTcMsg = 20

	tcaBPFName = 7
	tcaBPFID   = 11
)

// dumpTC calls each with what struct tcmsg and the attributes say of every object of an
// interface and a parent.
func (p *pod) dumpTC(message, index int, parent uint32, each func(handle, parent, info uint32, attrs map[uint16][]byte)) error {
	request := make([]byte, sizeofTcMsg)
	binary.NativeEndian.PutUint32(request[4:], uint32(index))
	binary.NativeEndian.PutUint32(request[12:], parent)
	conn, err := p.rtnetlink()
	if err != nil {
		return err
	}
	replies, err := dumpWhole(conn, mnl.HeaderType(message), request)
	if err != nil {
		return err
	}
	for _, m := range replies {
		if len(m.Data) < sizeofTcMsg {
			continue
		}
		word := func(at int) uint32 { return binary.NativeEndian.Uint32(m.Data[at:]) }
		if word(4) == uint32(index) { // a dump of qdiscs has those of all interfaces
			each(word(8), word(12), word(16), nested(m.Data[sizeofTcMsg:]))
		}
	}
	return nil
}

// guardByTC makes the filter, and the qdisc if there is none. What is there of other
// software stays. The error says why it cannot be.
func (p *pod) guardByTC(ifname string) error {
	if lacks.This(lacks.TC) {
		return fmt.Errorf("add tc qdisc clsact: %w", unix.ENOENT)
	}
	have, err := p.filters(ifname)
	if err != nil {
		return err
	}
	fd, err := bpf.LoadClassifier(contract.Table, guardProgram)
	if err != nil {
		return wrap("load the filter of the packet guard", err)
	}
	defer unix.Close(fd)
	link, err := p.link.LinkByName(ifname)
	if err != nil {
		return wrap("find interface", err)
	}
	handle, change := uint32(handleFound), p.link.FilterAdd // which overwrites nothing
	switch have.qdisc {
	case "clsact":
	case "":
		if err := p.link.QdiscAdd(clsact(link)); err != nil {
			return wrap("add tc qdisc clsact", err)
		}
		handle = handleMade
	default:
		return fmt.Errorf("tc qdisc %s of other software has the place of clsact: %w", have.qdisc, unix.EEXIST)
	}
	switch i := slices.IndexFunc(have.egress, filter.ours); {
	case i == 0:
		handle, change = have.egress[0].handle, p.link.FilterReplace
	case i > 0:
		// Replaced where it is, it is behind what came later. So it goes and comes
		// again; a new one of its priority is the first.
		handle = have.egress[i].handle
		if err := p.deleteFilters(link, have.egress); err != nil {
			return err
		}
	}
	err = change(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: link.Attrs().Index, Parent: netlink.HANDLE_MIN_EGRESS, Handle: handle, Protocol: unix.ETH_P_ALL, Priority: guardPriority,
		},
		Fd: fd, Name: contract.Table, DirectAction: true,
	})
	if err != nil && have.qdisc == "" {
		err = errors.Join(err, wrap("delete tc qdisc clsact", p.link.QdiscDel(clsact(link))))
	}
	return wrap("add the tc filter of the packet guard", err)
}

// unguardTC takes out the filter, and the qdisc if guardByTC made it and nobody else
// uses it. It is idempotent.
func (p *pod) unguardTC(ifname string) error {
	have, err := p.filters(ifname)
	if err != nil || !slices.ContainsFunc(have.egress, filter.ours) {
		return err
	}
	link, err := p.link.LinkByName(ifname)
	if err != nil {
		return wrap("find interface", err)
	}
	if err := p.deleteFilters(link, have.egress); err != nil {
		return err
	}
	others := slices.ContainsFunc(append(have.egress, have.ingress...), func(f filter) bool { return !f.ours() })
	made := slices.ContainsFunc(have.egress, func(f filter) bool { return f.ours() && f.handle == handleMade })
	if others || !made {
		return nil
	}
	return wrap("delete tc qdisc clsact", p.link.QdiscDel(clsact(link)))
}

// deleteFilters deletes those of the list that are ours.
func (p *pod) deleteFilters(link netlink.Link, list []filter) error {
	for _, f := range list {
		if !f.ours() {
			continue
		}
		err := p.link.FilterDel(&netlink.BpfFilter{FilterAttrs: netlink.FilterAttrs{
			LinkIndex: link.Attrs().Index, Parent: netlink.HANDLE_MIN_EGRESS, Handle: f.handle,
			Protocol: unix.ETH_P_ALL, Priority: uint16(f.info >> 16),
		}})
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return wrap("delete the tc filter of the packet guard", err)
		}
	}
	return nil
}

func clsact(link netlink.Link) netlink.Qdisc {
	return &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT},
		QdiscType:  "clsact",
	}
}

// diffFilters names how the filter at egress differs from the one wanted.
func diffFilters(ifname string, want, have []filter) (drift []string) {
	i := slices.IndexFunc(have, filter.ours)
	switch {
	case i < 0:
		return append(drift, fmt.Sprintf("packet guard: the tc egress filter of %s is missing", ifname))
	case len(want) > 0 && have[i].does() != want[0].does():
		drift = append(drift, fmt.Sprintf("packet guard: the tc egress filter of %s is another than ADD makes", ifname))
	}
	if i > 0 {
		drift = append(drift, fmt.Sprintf("packet guard: the tc egress filter of %s comes after another, %s", ifname, have[0]))
	}
	return drift
}
