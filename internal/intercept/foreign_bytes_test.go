package intercept

import (
	"net/netip"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	mnl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/printable"
	"github.com/tproxy-cni/tproxy-cni/internal/xtables"
)

// What a process of the pod with NET_ADMIN has put into the kernel comes back as it
// was put there: these read it.

// synTo is a SYN of which the rules of others are asked.
func synTo(family nftables.TableFamily) probePacket {
	to := netip.MustParseAddr("192.0.2.1")
	if family == unix.NFPROTO_IPV6 {
		to = netip.MustParseAddr("2001:db8::1")
	}
	return probePacket{
		family: family, iif: "eth0", index: 2, to: to,
		own: func(a netip.Addr) bool { return a == to },
		set: func(string) *knownSet { return nil },
	}
}

// FuzzRule reads a rule of nftables: its expressions and its user data.
func FuzzRule(f *testing.F) {
	for _, t := range ruleset(Default("nat"), nil) {
		for _, ch := range t.chains {
			for _, r := range ch.rules {
				f.Add(attributes(f, byte(t.Family), r.expr), []byte{0, 3, 'h', 'i', 0})
			}
		}
	}
	f.Add([]byte{5, 0, 1, 0}, []byte{0, 200, 'x'})
	for name, info := range map[string][]byte{"tcp": make([]byte, 12), "multiport": append([]byte{1, 15}, make([]byte, 46)...), "udp": nil} {
		match := expr.Match{Name: name, Info: (*xt.Unknown)(&info)}
		target := expr.Target{Name: "REDIRECT", Info: (*xt.Unknown)(&info)}
		f.Add(attributes(f, unix.NFPROTO_IPV4, []expr.Any{&match, &target}), []byte{})
	}
	f.Fuzz(func(t *testing.T, expressions, udata []byte) {
		comment(udata)
		compared(string(expressions), 2)
		others, counter := splitCounter(expressions)
		if len(others)+len(counter) > len(expressions) {
			t.Errorf("%d bytes became %d", len(expressions), len(others)+len(counter))
		}
		for _, family := range []nftables.TableFamily{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6} {
			r := synTo(family).see(expressions)
			if r.action == actTake && r.taken.verb == "" {
				t.Errorf("it takes, but how: %+v", r)
			}
		}
	})
}

// FuzzIPRule reads a rule of policy routing.
func FuzzIPRule(f *testing.F) {
	for _, r := range []ipRule{
		markedRule(unix.AF_INET, 0, unix.FR_ACT_TO_TBL, 29808), markedRule(unix.AF_INET6, 0, unix.FR_ACT_UNREACHABLE, 0),
		localRule(unix.AF_INET, 0, 0), answersRule(unix.AF_INET6, 7089), kernelRule(unix.AF_INET),
	} {
		f.Add(r.message)
	}
	name := []byte{9, 0, unix.FRA_IIFNAME, 0, 'a', '\n', 'b', 0x1b, 0, 0, 0, 0}
	f.Add(append(append(make([]byte, ruleHeader), name...), 4, 0, unix.FRA_UID_RANGE, 0))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRule(data)
		if err != nil {
			return
		}
		if text := r.String(); printable.Line(text) != text {
			t.Errorf("not printable: %q", text)
		}
		if !r.same(r) {
			t.Errorf("not the same as itself: %s", r)
		}
		again, err := parseRule(r.message)
		if err != nil || !r.same(again) || again.plain != r.plain {
			t.Errorf("written again it is another rule: %+v, %+v (%v)", r, again, err)
		}
		r.forMark()
		r.forAnswers()
		r.local()
	})
}

// FuzzWalk goes through chains that may jump to each other without end.
func FuzzWalk(f *testing.F) {
	f.Add([]byte{1, 1, 0, 2, 2, 0, 1, 3})
	f.Add([]byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, how []byte) {
		const chains = 4
		names := [chains]string{"a", "b", "c", "d"}
		w := walk{chains: map[string][][]byte{}, left: new(budget)}
		*w.left = mostSteps
		for i, b := range how {
			name := names[i%chains]
			w.chains[name] = append(w.chains[name], []byte{b})
		}
		w.see = func(rule []byte) seenRule {
			r := seenRule{ports: portRange(uint16(rule[0]), 65535), sure: rule[0]&1 == 0, action: action(rule[0] % 6), chain: names[rule[0]/6%chains]}
			if r.action == actTake {
				r.taken = take{"redirects", uint16(rule[0])}
			}
			return r
		}
		w.through("a", everyPort)
		if len(w.found) > mostTakers {
			t.Errorf("%d takers", len(w.found))
		}
	})
}

// FuzzLegacy reads a table of iptables-legacy.
func FuzzLegacy(f *testing.F) {
	for _, six := range []bool{false, true} {
		f.Add(six, legacyRule(six, "ERROR", 64), 0, 0)
		f.Add(six, append(legacyRule(six, "ERROR", 64), legacyRule(six, "", 40)...), 0, 40)
		f.Add(six, legacyRule(six, "REDIRECT", 56), 0, 0)
		short := append(make([]byte, 32), legacyRule(six, "ERROR", 64)...)
		short[xtables.TargetOffset(six)+2] = 32 // an entry that ends within its own header
		f.Add(six, short, 0, 0)
	}
	f.Fuzz(func(t *testing.T, six bool, entries []byte, first, policy int) {
		table, err := xtables.Parse(six, entries, first, policy)
		if err != nil {
			return
		}
		family := nftables.TableFamily(unix.NFPROTO_IPV4)
		if six {
			family = unix.NFPROTO_IPV6
		}
		w := walk{chains: table.Chains, see: func(entry []byte) seenRule { return synTo(family).seeLegacy(table, entry) }, left: new(budget)}
		*w.left = mostSteps
		w.through("PREROUTING", everyPort)
	})
}

// attributes are a rule's expressions as the kernel lists them.
func attributes(tb testing.TB, family byte, exprs []expr.Any) []byte {
	tb.Helper()
	var list []mnl.Attribute
	for _, e := range exprs {
		data, err := expr.Marshal(family, e)
		if err != nil {
			tb.Fatal(err)
		}
		list = append(list, mnl.Attribute{Type: unix.NFTA_LIST_ELEM | unix.NLA_F_NESTED, Data: data})
	}
	b, err := mnl.MarshalAttributes(list)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// legacyRule is a struct ipt_entry, or ip6t_entry, with a target.
func legacyRule(six bool, target string, targetSize int) []byte {
	head := entryLayouts[unix.NFPROTO_IPV4].size
	if six {
		head = entryLayouts[unix.NFPROTO_IPV6].size
	}
	b := make([]byte, head+targetSize)
	at := xtables.TargetOffset(six)
	b[at], b[at+2] = byte(head), byte(head+targetSize)
	b[head] = byte(targetSize)
	copy(b[head+2:], target)
	copy(b[head+32:], "PREROUTING")
	return b
}
