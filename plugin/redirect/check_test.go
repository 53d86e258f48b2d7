package redirect

import (
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/lab"
)

var required = []netip.Addr{netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("fd00:1::2")}

// TestRemove: the namespace is as before Apply, once and twice.
func TestRemove(t *testing.T) {
	for name, c := range goldens() {
		t.Run(name, func(t *testing.T) {
			pod := newPod(t)
			pod.Up() // Apply leaves lo up, which is no harm
			before := state(pod)
			apply(t, pod, c)
			for range 2 {
				if err := Remove(pod.Path(), "eth0"); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(before, state(pod)); diff != "" {
					t.Fatalf("before Apply and after Remove differ:\n%s", diff)
				}
			}
		})
	}
	t.Run("namespace is gone", func(t *testing.T) {
		if err := Remove("/run/netns/tproxy-cni-never-was", "eth0"); err != nil {
			t.Error(err)
		}
	})
}

// TestUndo: an Apply that fails leaves the namespace as it was and says what
// failed.
func TestUndo(t *testing.T) {
	pod := newPod(t)
	pod.Up() // going up gives lo its address, which it keeps
	before := state(pod)
	c := Default(contract.ModeNAT)
	c.Interface = "net7"
	if err := Apply(pod.Path(), c); err == nil || !strings.Contains(err.Error(), `"net7"`) {
		t.Errorf("Apply on an interface that is not there: %v", err)
	}

	p, err := open(pod.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	steps, err := p.steps(Default(contract.ModeNAT))
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(steps) + 1 {
		for _, s := range steps[:n] {
			if err := s.do(); err != nil {
				t.Fatal(err)
			}
		}
		if err := undo(steps[:n]); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, state(pod)); diff != "" {
			t.Fatalf("before and after undoing %d steps differ:\n%s", n, diff)
		}
	}
}

// ruleHandle is the handle of the rule of a chain that contains text.
func ruleHandle(t *testing.T, pod *lab.NS, family, chain, text string) string {
	t.Helper()
	list := pod.Run("nft", "-a", "list", "chain", family, contract.Table, chain)
	m := regexp.MustCompile(regexp.QuoteMeta(text) + `.*# handle (\d+)`).FindStringSubmatch(list)
	if m == nil {
		t.Fatalf("no rule %q in\n%s", text, list)
	}
	return m[1]
}

// TestCheck breaks one thing at a time, as an administrator or another program
// might, and wants Check to name just that.
func TestCheck(t *testing.T) {
	deleteRule := func(family, chain, text string) func(*testing.T, *lab.NS) {
		return func(t *testing.T, pod *lab.NS) {
			pod.Run("nft", "delete", "rule", family, contract.Table, chain, "handle", ruleHandle(t, pod, family, chain, text))
		}
	}
	run := func(args ...string) func(*testing.T, *lab.NS) {
		return func(_ *testing.T, pod *lab.NS) { pod.Run(args...) }
	}
	nft := func(command string) func(*testing.T, *lab.NS) { return run("nft", command) }

	for _, tt := range []struct {
		name   string
		mode   string
		change func(*testing.T, *lab.NS)
		want   string // the whole message; "" for no drift
	}{
		{"nothing, nat", "nat", func(*testing.T, *lab.NS) {}, ""},
		{"nothing, tproxy", "tproxy", func(*testing.T, *lab.NS) {}, ""},
		{"another's table", "nat", nft("add table inet other"), ""},
		{"another's chain on our hook", "tproxy", nft("add table ip filter; add chain ip filter INPUT { type filter hook input priority 0; policy accept; }"), ""},
		{"another's ip rule", "nat", run("ip", "rule", "add", "priority", "0", "iif", "eth0", "lookup", "local"), ""},
		{"an address that came later", "nat", run("ip", "addr", "add", "10.9.9.9/32", "dev", "lo"), ""},
		{"no table", "nat", nft("delete table inet tproxy_cni"), "table inet tproxy_cni is missing"},
		{"no netdev table", "nat", nft("delete table netdev tproxy_cni"), "table netdev tproxy_cni is missing"},
		{"flushed", "nat", nft("flush chain inet tproxy_cni redirect_in"), "rule 1 of chain redirect_in of table inet tproxy_cni is missing"},
		{"rule 4 of inbound", "nat", deleteRule("inet", "inbound", "redirect to"), "rule 4 of chain inbound of table inet tproxy_cni is missing"},
		{"rule 2 of closed_in", "tproxy", deleteRule("inet", "closed_in", "jump exempt"), "rule 2 of chain closed_in of table inet tproxy_cni is missing"},
		{"the guard's drop", "tproxy", deleteRule("inet", "output", "drop"), "rule 9 of chain output of table inet tproxy_cni is missing"},
		{"rule of a frame chain", "nat", deleteRule("netdev", "frame6", "skuid"), "rule 3 of chain frame6 of table netdev tproxy_cni is missing"},
		{
			"rule put in between", "nat", nft("insert rule inet tproxy_cni exempt tcp dport 80 accept"),
			"rule 1 of chain exempt of table inet tproxy_cni is not ours",
		},
		{
			"redirected elsewhere", "nat",
			func(t *testing.T, pod *lab.NS) {
				h := ruleHandle(t, pod, "inet", "inbound", "redirect to")
				pod.Run("nft", "replace", "rule", "inet", contract.Table, "inbound", "handle", h, "meta", "l4proto", "tcp", "redirect", "to", ":6000")
			},
			"rule 4 of chain inbound of table inet tproxy_cni is missing; rule 4 of chain inbound of table inet tproxy_cni is not ours",
		},
		{
			"policy", "nat", nft("add chain inet tproxy_cni input { policy drop; }"),
			"chain input of table inet tproxy_cni has another type, hook, priority, device or policy",
		},
		{
			"foreign source allowed", "nat", nft("add element inet tproxy_cni own4 { 192.0.2.1 }"),
			"set own4 of table inet tproxy_cni holds 192.0.2.1, which no interface has",
		},
		{
			"own address forgotten", "nat", nft("delete element inet tproxy_cni own6 { fd00:1::2 }"),
			"set own6 of table inet tproxy_cni lacks fd00:1::2",
		},
		{
			"marked rule", "nat", run("ip", "rule", "del", "fwmark", "0x1000/0x1000", "lookup", "local"),
			`ipv4 rule "1: from all fwmark 0x1000/0x1000 lookup local" is missing`,
		},
		{
			"unreachable rule", "nat", run("ip", "-6", "rule", "del", "fwmark", "0x1000/0x1000", "unreachable"),
			`ipv6 rule "1: from all fwmark 0x1000/0x1000 unreachable" is missing`,
		},
		{
			"the kernel's rule is back", "tproxy", run("ip", "rule", "add", "priority", "0", "lookup", "local"),
			`ipv4 rule "0: from all lookup local" is there and shows every address as local`,
		},
		{"ipv4 route", "nat", run("ip", "route", "del", "local", "default", "dev", "lo", "table", "local"), `ipv4 route "local default dev lo table 255" is missing`},
		{"ipv6 route", "nat", run("ip", "-6", "route", "del", "local", "default", "dev", "lo", "table", "29808"), `ipv6 route "local default dev lo table 29808" is missing`},
		{
			"sysctl", "nat", func(_ *testing.T, pod *lab.NS) { pod.Sysctl("net.ipv4.tcp_fwmark_accept", "0") },
			"sysctl net.ipv4.tcp_fwmark_accept is 0, not 1",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			pod := newPod(t)
			c := Default(tt.mode)
			apply(t, pod, c)
			tt.change(t, pod)
			got := ""
			if err := Check(pod.Path(), c, required); err != nil {
				got = err.Error()
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestCheckSets(t *testing.T) {
	pod := newPod(t)
	c := goldens()["tproxy"]
	apply(t, pod, c)
	if err := Check(pod.Path(), c, required); err != nil {
		t.Errorf("as applied: %v", err)
	}
	pod.Run("nft", "add element inet tproxy_cni exclude_ports { 4711 }")
	want := Drift{"set exclude_ports of table inet tproxy_cni has other elements"}
	if diff := cmp.Diff(want, Check(pod.Path(), c, required)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestCheckAnyName: no name of the pod's interface is in the way.
func TestCheckAnyName(t *testing.T) {
	for _, name := range []string{scratchPeer, "fifteen-letters", "eth0.5@x"} {
		pod, node := lab.New(t, "pod"), lab.New(t, "node")
		lab.Veth(node, "pod0", pod, name)
		c := Default(contract.ModeNAT)
		c.Interface = name
		apply(t, pod, c)
		if err := Check(pod.Path(), c, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestOneInterface: a second network's ADD and DEL do no harm to the first.
func TestOneInterface(t *testing.T) {
	for name, c := range goldens() {
		t.Run(name, func(t *testing.T) {
			pod, node := newPod(t), lab.New(t, "second")
			lab.Veth(node, "pod1", pod, "net1")
			apply(t, pod, c)
			before := state(pod)
			other := c
			other.Interface = "net1"
			if err := Apply(pod.Path(), other); err == nil || !strings.Contains(err.Error(), "intercepted on eth0 already") {
				t.Errorf("Apply on a second interface: %v", err)
			}
			if err := Remove(pod.Path(), "net1"); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(before, state(pod)); diff != "" {
				t.Errorf("the first interface's state has changed:\n%s", diff)
			}

			// The first one gone, the pod may have another.
			pod.Run("ip", "link", "del", "eth0")
			apply(t, pod, other)
			if err := Check(pod.Path(), other, nil); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestRemoveNothing: what looks like ours but is not stays.
func TestRemoveNothing(t *testing.T) {
	pod := newPod(t)
	pod.Up()
	pod.Run("ip", "rule", "add", "priority", "7", "lookup", "local")
	pod.Run("ip", "rule", "del", "priority", "0", "lookup", "local")
	pod.Run("ip", "route", "add", "local", "default", "dev", "lo", "table", "local")
	before := state(pod)
	if err := Remove(pod.Path(), "eth0"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, state(pod)); diff != "" {
		t.Errorf("Remove changed a namespace that Apply never saw:\n%s", diff)
	}
}
