package intercept

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/xtables"
)

// legacyTables are the tables of iptables-legacy that can take connections, with the
// priority of their hooks at prerouting.
var legacyTables = []struct {
	name     string
	priority int
}{{"mangle", -150}, {"nat", -100}}

// legacyHooks are the namespace's tables of iptables-legacy.
func (p *pod) legacyHooks() (list []hooked, err error) {
	err = p.ns.Do(func(ns.NetNS) error {
		for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
			six := family == nftables.TableFamilyIPv6
			names, err := xtables.Names(six)
			if err != nil {
				return err
			}
			for _, t := range legacyTables {
				if !slices.Contains(names, t.name) {
					continue
				}
				read, err := xtables.Read(six, t.name)
				if err != nil {
					return err
				}
				see := func(k probePacket, entry []byte) seenRule { return k.seeLegacy(read, entry) }
				list = append(list, hooked{family, t.name, "PREROUTING", t.priority, t.name == "nat", true, read.Chains, see})
			}
		}
		return nil
	})
	return list, err
}

// hasLegacy reports whether the namespace has any of them.
func (p *pod) hasLegacy() (has bool, err error) {
	err = p.ns.Do(func(ns.NetNS) error {
		for _, six := range []bool{false, true} {
			names, err := xtables.Names(six)
			if err != nil {
				return err
			}
			has = has || slices.ContainsFunc(names, func(name string) bool {
				return name == legacyTables[0].name || name == legacyTables[1].name
			})
		}
		return nil
	})
	return has, err
}

// entryLayout is where struct ipt_entry, or ip6t_entry, has what matters.
type entryLayout struct {
	addr                 int // the length of an address; source, destination and their masks come first
	proto, flags, invert int // places
	gotoFlag             byte
	size                 int // of the struct; matches follow
}

var entryLayouts = map[nftables.TableFamily]entryLayout{
	nftables.TableFamilyIPv4: {4, 80, 82, 83, 2, 112},
	nftables.TableFamilyIPv6: {16, 128, 131, 132, 4, 168},
}

// seeLegacy is a rule of a table of iptables-legacy as the packet sees it.
func (k probePacket) seeLegacy(t *xtables.Table, entry []byte) seenRule {
	m := machine{k, nil, seenRule{ports: everyPort, sure: true}}
	e := entryLayouts[k.family]
	target := int(binary.NativeEndian.Uint16(entry[xtables.TargetOffset(k.family == unix.NFPROTO_IPV6):]))
	m.header(e, entry)
	const header = 32 // of struct xt_entry_match and xt_entry_target: size, name[29], revision
	for at := e.size; at+header <= target; {
		size := int(binary.NativeEndian.Uint16(entry[at:]))
		if size < header || at+size > target {
			break
		}
		m.xtMatch(xtName(entry[at:]), entry[at+header:at+size])
		at += size
	}
	name := xtName(entry[target:])
	if info := entry[target+header:]; name == "" && len(info) >= 4 {
		m.legacyVerdict(t, int32(binary.NativeEndian.Uint32(info)), entry[e.flags]&e.gotoFlag != 0)
	} else {
		m.xtTarget(name, uint32(entry[target+31]), info)
	}
	return m.rule
}

// header reads what a rule asks of addresses, interfaces and the protocol.
func (m *machine) header(e entryLayout, entry []byte) {
	const invIn, invSource, invDest, invProto = 0x01, 0x08, 0x10, 0x40
	inverted := entry[e.invert]
	part := func(i, n int) []byte { return entry[i:][:n] }
	interfaces := 4 * e.addr
	masked := func(have, want, mask []byte) bool {
		for i := range want {
			if have[i]&mask[i] != want[i] {
				return false
			}
		}
		return true
	}
	if !bytes.Equal(part(2*e.addr, e.addr), make([]byte, e.addr)) || inverted&invSource != 0 {
		m.rule.sure = false // some sources
	}
	to := masked(m.to.AsSlice(), part(e.addr, e.addr), part(3*e.addr, e.addr))
	in := masked(ifname(m.iif), part(interfaces, unix.IFNAMSIZ), part(interfaces+2*unix.IFNAMSIZ, unix.IFNAMSIZ))
	proto := binary.NativeEndian.Uint16(entry[e.proto:])
	tcp := proto == 0 || proto == unix.IPPROTO_TCP
	if to == (inverted&invDest != 0) || in == (inverted&invIn != 0) || tcp == (inverted&invProto != 0) {
		m.narrow(portSet{})
	}
}

// legacyVerdict reads struct xt_standard_target: a verdict, or a place to jump to.
func (m *machine) legacyVerdict(t *xtables.Table, verdict int32, goes bool) {
	const isReturn = -5 // XT_RETURN
	switch {
	case verdict == isReturn:
		m.rule.action = actReturn
	case verdict < 0:
		m.rule.action = actEnd
	default:
		m.rule.action, m.rule.chain = actJump, t.At[int(verdict)]
		if goes {
			m.rule.action = actGoto
		}
	}
	if m.rule.chain == "" && verdict >= 0 {
		m.rule.action = actNothing // to the next rule
	}
}

// xtName is the name in a struct xt_entry_match or xt_entry_target.
func xtName(b []byte) string {
	name, _, _ := bytes.Cut(b[2:31], []byte{0})
	return string(name)
}
