package podstat

import (
	"slices"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
)

// TestRouting: what ip shows of a pod that the plugin has prepared, what of one whose
// rules are gone, and what of one that it has never seen.
func TestRouting(t *testing.T) {
	n := lab.NewNet(t)
	n.Wire()
	read := func(six bool) (r Routing) {
		if err := n.Pod.Do(func() error { r = ReadRouting(six); return nil }); err != nil {
			t.Fatal(err)
		}
		return r
	}
	for _, six := range []bool{false, true} {
		if r := read(six); r.Stays {
			t.Errorf("without the plugin: %+v", r)
		}
	}
	program(t, n)
	marked := []string{"0: from all fwmark 0x1000/0x1000 lookup 29808", "0: from all fwmark 0x1000/0x1000 unreachable"}
	const answers = "0: from all uidrange 7089-7089 lookup main suppress_ifgroup default"
	for _, tt := range []struct {
		six    bool
		family string
		route  string
		rules  []string
	}{
		{false, "-4", "local 192.0.2.1 dev lo table 29808", append(marked[:2:2], "0: from all lookup local suppress_prefixlength 0", answers, "32766: from all lookup main", "32767: from all lookup default")},
		{true, "-6", "local 2001:db8::1 dev lo table 29808", append([]string{"0: from all lookup local"}, append(marked[:2:2], answers, "32766: from all lookup main")...)},
	} {
		if r := read(tt.six); !r.Stays || r.Marked != tt.route || !slices.Equal(r.Rules, tt.rules) {
			t.Errorf("%+v, want %s and %q", r, tt.route, tt.rules)
		}
		n.Pod.Run("ip", tt.family, "rule", "del", "fwmark", "0x1000/0x1000", "lookup", "29808")
		if r := read(tt.six); r.Stays || r.Error == "" {
			t.Errorf("without the rule: %+v, want an error: unreachable", r)
		}
	}
}

// program is what the plugin does to the pod, in nat mode.
func program(t *testing.T, n *lab.Net) {
	t.Helper()
	c := intercept.Default(contract.ModeNAT)
	c.PacketGuard = lab.PacketGuard(t)
	if err := intercept.Apply(n.Pod.Path(), c); err != nil {
		t.Fatal(err)
	}
}

// TestSysctls: all are as the plugin sets them, and one that is changed is not.
func TestSysctls(t *testing.T) {
	n := lab.NewNet(t)
	n.Wire()
	program(t, n)
	read := func() (all []Sysctl) {
		if err := n.Pod.Do(func() error { all = ReadSysctls(true, true); return nil }); err != nil {
			t.Fatal(err)
		}
		return all
	}
	for _, s := range read() {
		if !s.OK {
			t.Errorf("%+v", s)
		}
	}
	n.Pod.Sysctl("net.ipv6.fwmark_reflect", "0")
	for _, s := range read() {
		if s.OK != (s.Name != "net.ipv6.fwmark_reflect") {
			t.Errorf("%+v", s)
		}
	}
}
