package trace

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/containernetworking/plugins/pkg/ns"
	mnl "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
)

// place is where a rule or a chain is.
type place struct {
	family       byte
	table, chain string
}

// Hook is where a base chain gets its packets: "prerouting", and the order in which
// the chains of one hook get them.
type Hook struct {
	Name     string
	Priority int32
	NAT      bool // a chain of type nat: the first packet of a connection only
}

// rule is what is known of a rule beside its handle.
type rule struct {
	number  int // in its chain, from 1
	comment string
}

type rules struct {
	hooks map[place]Hook
	rules map[place]map[uint64]rule // by handle
}

// families are the names of nft for the families that a pod's packets can meet.
var families = map[byte]string{
	unix.NFPROTO_INET: "inet", unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6",
	unix.NFPROTO_NETDEV: "netdev", unix.NFPROTO_BRIDGE: "bridge", unix.NFPROTO_ARP: "arp",
}

var hookNames = []string{"prerouting", "input", "forward", "output", "postrouting", "ingress"}

// readRules lists every chain and rule of the namespace.
func readRules(conn *mnl.Conn) (all rules, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("list the rules: %w", err)
		}
	}()
	all = rules{map[place]Hook{}, map[place]map[uint64]rule{}}
	err = dump(conn, unix.NFT_MSG_GETCHAIN, func(family byte, attrs map[uint16][]byte) {
		hook, err := attributes(attrs[unix.NFTA_CHAIN_HOOK])
		number := be32(hook[unix.NFTA_HOOK_HOOKNUM])
		if err != nil || hook[unix.NFTA_HOOK_HOOKNUM] == nil || int(number) >= len(hookNames) {
			return // a chain without a hook
		}
		h := Hook{Name: hookNames[number], Priority: int32(be32(hook[unix.NFTA_HOOK_PRIORITY])), NAT: text(attrs[unix.NFTA_CHAIN_TYPE]) == "nat"}
		if family == unix.NFPROTO_NETDEV {
			h.Name = []string{"ingress", "egress"}[min(number, 1)]
		}
		all.hooks[place{family, text(attrs[unix.NFTA_CHAIN_TABLE]), text(attrs[unix.NFTA_CHAIN_NAME])}] = h
	})
	if err != nil {
		return all, err
	}
	err = dump(conn, unix.NFT_MSG_GETRULE, func(family byte, attrs map[uint16][]byte) {
		at := place{family, text(attrs[unix.NFTA_RULE_TABLE]), text(attrs[unix.NFTA_RULE_CHAIN])}
		if all.rules[at] == nil {
			all.rules[at] = map[uint64]rule{}
		}
		if handle := attrs[unix.NFTA_RULE_HANDLE]; len(handle) == 8 {
			all.rules[at][binary.BigEndian.Uint64(handle)] = rule{len(all.rules[at]) + 1, intercept.Comment(attrs[unix.NFTA_RULE_USERDATA])}
		}
	})
	return all, err
}

// dump calls each for every object of every table.
func dump(conn *mnl.Conn, message int, each func(family byte, attrs map[uint16][]byte)) error {
	replies, err := conn.Execute(mnl.Message{
		Header: mnl.Header{Type: mnl.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | message), Flags: mnl.Request | mnl.Dump},
		Data:   []byte{unix.NFPROTO_UNSPEC, unix.NFNETLINK_V0, 0, 0}, // struct nfgenmsg
	})
	if err != nil {
		return err
	}
	for _, m := range replies {
		if len(m.Data) < 4 {
			continue
		}
		attrs, err := attributes(m.Data[4:])
		if err != nil {
			return err
		}
		each(m.Data[0], attrs)
	}
	return nil
}

func attributes(data []byte) (map[uint16][]byte, error) {
	list, err := mnl.UnmarshalAttributes(data)
	attrs := map[uint16][]byte{}
	for _, a := range list {
		attrs[a.Type&^uint16(mnl.Nested)] = a.Data
	}
	return attrs, err
}

func text(b []byte) string { return strings.TrimRight(string(b), "\x00") }

// be32 is 0 for an attribute that is not there or of another size.
func be32(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

// linkNames are the namespace's interfaces by their index.
func linkNames(pod ns.NetNS) (map[uint32]string, error) {
	names := map[uint32]string{}
	err := pod.Do(func(ns.NetNS) error {
		links, err := netlink.LinkList()
		for _, l := range links {
			names[uint32(l.Attrs().Index)] = l.Attrs().Name
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	return names, nil
}
