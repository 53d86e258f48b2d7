package gather

import (
	"encoding/binary"
	"errors"
	"net/netip"

	mnl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/install/explain"
)

// Of linux/netfilter/nfnetlink_conntrack.h.
const (
	ctGet = 1 // IPCTNL_MSG_CT_GET

	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaFilter     = 25

	ctaFilterOrigFlags  = 1
	ctaFilterReplyFlags = 2
	filterSource        = 1 // the kernel's CTA_FILTER_F_CTA_IP_SRC: which part of the tuple to compare

	ctaTupleIP    = 1
	ctaTupleProto = 2
	ctaProtoNum   = 1
	ctaProtoSrc   = 2
	ctaProtoDst   = 3
)

// mostReplaced bounds how many connections are kept: one tells the story.
const mostReplaced = 100

// replaced looks in this node's conntrack table for connections to the pod whose
// source was rewritten. The kernel picks the pod's entries (Linux 5.8).
func (g gatherer) replaced() error {
	conn, err := mnl.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	g.Replaced = nil
	for _, addr := range g.Addrs {
		// An entry's answers come from the pod: its source in the reply's tuple.
		family, at := byte(unix.AF_INET), uint16(1)
		if addr.Is6() {
			family, at = unix.AF_INET6, 3
		}
		a := mnl.NewAttributeEncoder()
		a.Nested(ctaTupleReply, func(a *mnl.AttributeEncoder) error {
			a.Nested(ctaTupleIP, func(a *mnl.AttributeEncoder) error {
				a.Bytes(at, addr.AsSlice())
				return nil
			})
			return nil
		})
		a.Nested(ctaFilter, func(a *mnl.AttributeEncoder) error {
			a.Uint32(ctaFilterOrigFlags, 0)
			a.Uint32(ctaFilterReplyFlags, filterSource)
			return nil
		})
		data, err := a.Encode()
		if err != nil {
			return err
		}
		replies, err := conn.Execute(mnl.Message{
			Header: mnl.Header{Type: unix.NFNL_SUBSYS_CTNETLINK<<8 | ctGet, Flags: mnl.Request | mnl.Dump},
			Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, data...),
		})
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) {
			continue // this node has no conntrack
		}
		if err != nil {
			return err
		}
		for _, m := range replies {
			if r, ok := rewritten(m.Data); ok && r.Pod.Addr() == addr && len(g.Replaced) < mostReplaced {
				g.Replaced = append(g.Replaced, r)
			}
		}
	}
	return nil
}

// rewritten reads an entry; not ok for one that is not TCP's, or keeps its source.
func rewritten(data []byte) (r explain.Replaced, ok bool) {
	if len(data) < 4 {
		return r, false
	}
	attrs := nested(data[4:])
	from, to, tcp := tuple(attrs[ctaTupleOrig])
	pod, as, _ := tuple(attrs[ctaTupleReply])
	r = explain.Replaced{From: from, To: to, As: as, Pod: pod}
	return r, tcp && from.IsValid() && as.IsValid() && from.Addr() != as.Addr() && from.Addr() != pod.Addr()
}

func tuple(data []byte) (src, dst netip.AddrPort, tcp bool) {
	attrs := nested(data)
	ip, proto := nested(attrs[ctaTupleIP]), nested(attrs[ctaTupleProto])
	a, b := ip[1], ip[2] // CTA_IP_V4_SRC and _DST, then the same of IPv6
	if a == nil {
		a, b = ip[3], ip[4]
	}
	from, _ := netip.AddrFromSlice(a)
	to, ok := netip.AddrFromSlice(b)
	if sp, dp := proto[ctaProtoSrc], proto[ctaProtoDst]; ok && len(sp) == 2 && len(dp) == 2 {
		src = netip.AddrPortFrom(from, binary.BigEndian.Uint16(sp))
		dst = netip.AddrPortFrom(to, binary.BigEndian.Uint16(dp))
	}
	return src, dst, len(proto[ctaProtoNum]) == 1 && proto[ctaProtoNum][0] == unix.IPPROTO_TCP
}

func nested(data []byte) map[uint16][]byte {
	list, _ := mnl.UnmarshalAttributes(data)
	attrs := map[uint16][]byte{}
	for _, a := range list {
		attrs[a.Type&^uint16(mnl.Nested)] = a.Data
	}
	return attrs
}
