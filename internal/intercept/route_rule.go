package intercept

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"

	mnl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// ipRule is a rule of policy routing. The netlink library reads neither a rule's action nor
// all of its selectors, and cannot write a rule that is there already, which moving one
// takes.
type ipRule struct {
	family   uint8
	priority uint32
	action   uint8 // unix.FR_ACT_TO_TBL, ...
	table    uint32
	mark     uint32
	mask     uint32
	suppress uint32 // routes with a prefix up to this length; none
	group    uint32 // routes of interfaces in this group; none
	users    *idRange
	protocol uint8

	// plain says that nothing but the mark and the users selects packets.
	plain bool
	// message is what RTM_NEWRULE and RTM_DELRULE take: struct fib_rule_hdr
	// (linux/fib_rules.h) and attributes.
	message []byte
}

const (
	none         = ^uint32(0) // suppresses nothing
	ruleHeader   = 12
	ruleFlags    = 8       // where the flags are in the header
	ruleInverted = 0x2     // FIB_RULE_INVERT
	ruleFindsSrc = 0x10000 // FIB_RULE_FIND_SADDR
)

// markedRule is a rule for packets with our mark.
func markedRule(family uint8, priority uint32, action uint8, table uint32) ipRule {
	return ipRule{
		family: family, priority: priority, action: action, table: table,
		mark: contract.Mark, mask: contract.Mark, suppress: none, group: none, plain: true,
	}.encoded()
}

// localRule is a look-up in table local by all packets, without the routes that are
// not longer than suppress.
func localRule(family uint8, priority, suppress uint32) ipRule {
	return ipRule{
		family: family, priority: priority, action: unix.FR_ACT_TO_TBL, table: unix.RT_TABLE_LOCAL,
		suppress: suppress, group: none, plain: true,
	}.encoded()
}

// answersRule is for what the sidecar sends: table main, where its best match does not lead
// to an interface in group default; the CNI's is in linkGroup.
func answersRule(family uint8, uid uint32) ipRule {
	return ipRule{
		family: family, action: unix.FR_ACT_TO_TBL, table: unix.RT_TABLE_MAIN,
		users: &idRange{uid, uid}, suppress: none, group: 0, plain: true,
	}.encoded()
}

// kernelRule is "0: from all lookup local", as a new namespace has it.
func kernelRule(family uint8) ipRule {
	r := localRule(family, 0, none)
	r.protocol = unix.RTPROT_KERNEL
	return r.encoded()
}

func (r ipRule) encoded() ipRule {
	a := mnl.NewAttributeEncoder()
	a.Uint32(unix.FRA_PRIORITY, r.priority)
	if r.table != 0 {
		a.Uint32(unix.FRA_TABLE, r.table)
	}
	if r.mark != 0 {
		a.Uint32(unix.FRA_FWMARK, r.mark)
		a.Uint32(unix.FRA_FWMASK, r.mask)
	}
	if r.suppress != none {
		a.Uint32(unix.FRA_SUPPRESS_PREFIXLEN, r.suppress)
	}
	if r.group != none {
		a.Uint32(unix.FRA_SUPPRESS_IFGROUP, r.group)
	}
	if r.users != nil {
		a.Do(unix.FRA_UID_RANGE, func() ([]byte, error) {
			return binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(nil, r.users[0]), r.users[1]), nil
		})
	}
	if r.protocol != 0 {
		a.Uint8(unix.FRA_PROTOCOL, r.protocol)
	}
	attributes, _ := a.Encode() // fails for nothing that is above
	r.message = append([]byte{r.family, 0, 0, 0, 0, 0, 0, r.action, 0, 0, 0, 0}, attributes...)
	return r
}

// parseRule reads what the kernel lists. The message of the result can be written again.
func parseRule(data []byte) (ipRule, error) {
	if len(data) < ruleHeader {
		return ipRule{}, fmt.Errorf("a rule of %d bytes", len(data))
	}
	list, err := mnl.UnmarshalAttributes(data[ruleHeader:])
	if err != nil {
		return ipRule{}, err
	}
	flags := binary.NativeEndian.Uint32(data[ruleFlags:])
	r := ipRule{
		family: data[0], action: data[7], table: uint32(data[4]), suppress: none, group: none, message: bytes.Clone(data),
		// Lengths of the prefixes to and from, and tos.
		plain: data[1] == 0 && data[2] == 0 && data[3] == 0 && flags&ruleInverted == 0,
	}
	// The kernel lists what is no setting, such as that an interface is gone.
	binary.NativeEndian.PutUint32(r.message[ruleFlags:], flags&(ruleInverted|ruleFindsSrc))
	priority := false
	for _, a := range list {
		n := uint32(0)
		switch {
		case a.Type == unix.FRA_UID_RANGE && len(a.Data) != 8, a.Type == unix.FRA_PROTOCOL && len(a.Data) != 1:
			return ipRule{}, fmt.Errorf("a rule whose attribute %d has %d bytes", a.Type, len(a.Data))
		case len(a.Data) == 4:
			n = binary.NativeEndian.Uint32(a.Data)
		}
		switch a.Type {
		case unix.FRA_PRIORITY:
			r.priority, priority = n, true
		case unix.FRA_TABLE:
			r.table = n
		case unix.FRA_FWMARK:
			r.mark = n
		case unix.FRA_FWMASK:
			r.mask = n
		case unix.FRA_SUPPRESS_PREFIXLEN:
			r.suppress = n
		case unix.FRA_SUPPRESS_IFGROUP:
			r.group = n
		case unix.FRA_UID_RANGE:
			r.users = &idRange{binary.NativeEndian.Uint32(a.Data), binary.NativeEndian.Uint32(a.Data[4:])}
		case unix.FRA_PROTOCOL:
			r.protocol = a.Data[0]
		case unix.FRA_PAD:
		default: // an interface, ports, what comes with new kernels
			r.plain = false
		}
	}
	if !priority { // 0 is not listed; written without, a rule would get another one
		for len(r.message)%4 != 0 { // where an attribute begins
			r.message = append(r.message, 0)
		}
		r.message = append(r.message, ipRule{suppress: none, group: none}.encoded().message[ruleHeader:]...)
	}
	return r, nil
}

// same reports whether two rules do the same to the same packets, in the same place.
func (r ipRule) same(o ipRule) bool {
	if r.plain && o.plain {
		return r.family == o.family && r.priority == o.priority && r.action == o.action && r.table == o.table &&
			r.mark == o.mark && r.mask == o.mask && r.suppress == o.suppress && r.group == o.group &&
			r.forUsers() == o.forUsers()
	}
	return bytes.Equal(r.message, o.message)
}

// forMark reports whether r is for packets with our mark, whatever else it asks of them.
func (r ipRule) forMark() bool { return r.mark == contract.Mark && r.mask == contract.Mark }

// forUsers are the uids that r is for.
func (r ipRule) forUsers() idRange {
	if r.users == nil {
		return idRange{0, none}
	}
	return *r.users
}

// forAnswers reports whether r is an answersRule, whoever the sidecar is.
func (r ipRule) forAnswers() bool {
	return r.users != nil && r.same(answersRule(r.family, r.users[0]))
}

// local reports whether r looks up table local for all packets, with all its routes.
func (r ipRule) local() bool {
	return r.plain && r.action == unix.FR_ACT_TO_TBL && r.table == unix.RT_TABLE_LOCAL && r.mask == 0 && r.users == nil && r.suppress == none && r.group == none
}

// String is r as ip rule shows it, without selectors that are rare.
func (r ipRule) String() string {
	from, attributes := "all", nested(r.message[ruleHeader:])
	if a, ok := netip.AddrFromSlice(attributes[unix.FRA_SRC]); ok {
		from = netip.PrefixFrom(a, int(r.message[2])).String()
	}
	not := ""
	if binary.NativeEndian.Uint32(r.message[ruleFlags:])&ruleInverted != 0 {
		not = "not "
	}
	text := fmt.Sprintf("%d: %sfrom %s", r.priority, not, from)
	if a, ok := netip.AddrFromSlice(attributes[unix.FRA_DST]); ok {
		text += " to " + netip.PrefixFrom(a, int(r.message[1])).String()
	}
	if r.mask != 0 {
		text += fmt.Sprintf(" fwmark %#x/%#x", r.mark, r.mask)
	}
	if link, ok := attributes[unix.FRA_IIFNAME]; ok {
		text += " iif " + printable.Word(cString(link))
	}
	if link, ok := attributes[unix.FRA_OIFNAME]; ok {
		text += " oif " + printable.Word(cString(link))
	}
	if r.users != nil {
		text += fmt.Sprintf(" uidrange %d-%d", r.users[0], r.users[1])
	}
	switch {
	case r.action == unix.FR_ACT_UNREACHABLE:
		return text + " unreachable"
	case r.action != unix.FR_ACT_TO_TBL:
		return text + fmt.Sprintf(" action %d", r.action)
	case r.table == unix.RT_TABLE_LOCAL:
		text += " lookup local"
	case r.table == unix.RT_TABLE_MAIN:
		text += " lookup main"
	case r.table == unix.RT_TABLE_DEFAULT:
		text += " lookup default"
	default:
		text += fmt.Sprintf(" lookup %d", r.table)
	}
	if r.suppress != none {
		text += fmt.Sprintf(" suppress_prefixlength %d", r.suppress)
	}
	if r.group == 0 {
		text += " suppress_ifgroup default"
	} else if r.group != none {
		text += fmt.Sprintf(" suppress_ifgroup %d", r.group)
	}
	return text
}
