package podstat

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// Routing is where a family's packets with the mark go: those of the spoofed leg.
type Routing struct {
	Family string   `json:"family"`          // IPv4 or IPv6
	Marked string   `json:"marked"`          // the route of a marked packet to an address that no host has
	Stays  bool     `json:"stays"`           // in the pod, by the plugin's table
	Rules  []string `json:"rules"`           // as ip rule shows them, the first of them
	Error  string   `json:"error,omitempty"` // what the kernel refused to tell
}

// mostRules bounds Rules. The plugin's have the first priorities.
const mostRules = 16

// An address of each family for documentation (RFC 5737, RFC 3849).
var nobody4, nobody6 = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")

// ReadRouting asks rtnetlink(7), which needs no privilege to read.
func ReadRouting(six bool) Routing {
	r, nobody := Routing{Family: "IPv4"}, nobody4
	if six {
		r.Family, nobody = "IPv6", nobody6
	}
	var err error
	if r.Rules, err = rules(six); err == nil {
		r.Marked, r.Stays, err = markedRoute(nobody)
	}
	if err != nil {
		r.Error = err.Error()
	}
	return r
}

func familyOf(six bool) byte {
	if six {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// rules lists the ip rules of a family.
func rules(six bool) (all []string, err error) {
	request := make([]byte, unix.SizeofRtMsg)
	request[0] = familyOf(six)
	err = ask(unix.NETLINK_ROUTE, unix.RTM_GETRULE, unix.NLM_F_DUMP, request, "RTM_GETRULE", func(data []byte) error {
		if len(data) < unix.SizeofRtMsg {
			return fmt.Errorf("RTM_GETRULE: an answer of %d bytes", len(data))
		}
		if len(all) < mostRules {
			all = append(all, ruleText(data, attributes(data[unix.SizeofRtMsg:])))
		}
		return nil
	})
	return all, err
}

// ProgrammedMode is the mode that the plugin's routes of a family name by their protocol
// (contract.ModeNAT or contract.ModeTProxy), empty if they name none: an earlier version
// of the plugin made them, or there are none. It needs no privilege. The error is a
// *os.SyscallError, or says what kind of answer came.
func ProgrammedMode(six bool) (mode string, err error) {
	request := make([]byte, unix.SizeofRtMsg)
	request[0] = familyOf(six)
	err = ask(unix.NETLINK_ROUTE, unix.RTM_GETROUTE, unix.NLM_F_DUMP, request, "RTM_GETROUTE", func(data []byte) error {
		if len(data) < unix.SizeofRtMsg {
			return fmt.Errorf("RTM_GETROUTE: an answer of %d bytes", len(data))
		}
		const protocol = 5 // its place in struct rtmsg
		if number32(attributes(data[unix.SizeofRtMsg:])[unix.RTA_TABLE], 0) != contract.RouteTable || mode != "" {
			return nil
		}
		switch data[protocol] {
		case contract.RouteProtocolNAT:
			mode = contract.ModeNAT
		case contract.RouteProtocolTProxy:
			mode = contract.ModeTProxy
		}
		return nil
	})
	return mode, err
}

// ruleText is a rule as ip rule shows it. head is struct fib_rule_hdr: family, lengths
// of the prefixes to and from, tos, table, two reserved bytes, action, flags.
func ruleText(head []byte, a map[uint16][]byte) string {
	const inverted = 0x2 // FIB_RULE_INVERT
	not := ""
	if binary.NativeEndian.Uint32(head[8:])&inverted != 0 {
		not = "not "
	}
	text := fmt.Sprintf("%d: %sfrom %s", number32(a[unix.FRA_PRIORITY], 0), not, prefixText(a[unix.FRA_SRC], head[2]))
	if to, ok := a[unix.FRA_DST]; ok {
		text += " to " + prefixText(to, head[1])
	}
	if mark := number32(a[unix.FRA_FWMARK], 0); mark != 0 {
		text += fmt.Sprintf(" fwmark %#x/%#x", mark, number32(a[unix.FRA_FWMASK], 0))
	}
	for _, link := range []struct {
		name string
		kind uint16
	}{{" iif ", unix.FRA_IIFNAME}, {" oif ", unix.FRA_OIFNAME}} {
		if name, ok := a[link.kind]; ok {
			text += link.name + printable.Line(string(bytes.TrimRight(name, "\x00")))
		}
	}
	if users := a[unix.FRA_UID_RANGE]; len(users) == 8 { // struct fib_rule_uid_range
		text += fmt.Sprintf(" uidrange %d-%d", binary.NativeEndian.Uint32(users), binary.NativeEndian.Uint32(users[4:]))
	}
	switch head[7] {
	case unix.FR_ACT_TO_TBL:
		text += " lookup " + tableText(number32(a[unix.FRA_TABLE], uint32(head[4])))
	case unix.FR_ACT_UNREACHABLE:
		text += " unreachable"
	default:
		text += fmt.Sprintf(" action %d", head[7])
	}
	const all = ^uint32(0) // no suppression
	if n := number32(a[unix.FRA_SUPPRESS_PREFIXLEN], all); n != all {
		text += fmt.Sprintf(" suppress_prefixlength %d", n)
	}
	if n := number32(a[unix.FRA_SUPPRESS_IFGROUP], all); n != all {
		text += " suppress_ifgroup " + groupText(n)
	}
	return text
}

func prefixText(addr []byte, bits byte) string {
	if a, ok := netip.AddrFromSlice(addr); ok {
		return fmt.Sprintf("%s/%d", a, bits)
	}
	return "all"
}

func groupText(group uint32) string {
	if group == 0 {
		return "default"
	}
	return strconv.FormatUint(uint64(group), 10)
}

func tableText(table uint32) string {
	switch table {
	case unix.RT_TABLE_LOCAL:
		return "local"
	case unix.RT_TABLE_MAIN:
		return "main"
	case unix.RT_TABLE_DEFAULT:
		return "default"
	}
	return strconv.FormatUint(uint64(table), 10)
}

// markedRoute is `ip route get to mark M`. stays reports whether it is the plugin's.
func markedRoute(to netip.Addr) (text string, stays bool, err error) {
	// struct rtmsg: family, lengths of the prefixes to and from, tos, table, protocol,
	// scope, type, flags.
	request := make([]byte, unix.SizeofRtMsg)
	request[0], request[1] = familyOf(to.Is6()), byte(to.BitLen())
	binary.NativeEndian.PutUint32(request[8:], unix.RTM_F_LOOKUP_TABLE)
	request = append(request, attribute(unix.RTA_DST, to.AsSlice())...)
	request = append(request, attribute(unix.RTA_MARK, binary.NativeEndian.AppendUint32(nil, contract.Mark))...)
	err = ask(unix.NETLINK_ROUTE, unix.RTM_GETROUTE, 0, request, "RTM_GETROUTE", func(data []byte) error {
		if len(data) < unix.SizeofRtMsg {
			return fmt.Errorf("RTM_GETROUTE: an answer of %d bytes", len(data))
		}
		a := attributes(data[unix.SizeofRtMsg:])
		table, local := number32(a[unix.RTA_TABLE], uint32(data[4])), data[7] == unix.RTN_LOCAL
		if local {
			text = "local "
		}
		text += to.String()
		if link, err := net.InterfaceByIndex(int(number32(a[unix.RTA_OIF], 0))); err == nil {
			text += " dev " + printable.Line(link.Name)
		}
		text += " table " + tableText(table)
		stays = local && table == contract.RouteTable
		return nil
	})
	return text, stays, err
}
