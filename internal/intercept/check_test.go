package intercept

import (
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/lacks"
)

var required = []netip.Addr{netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("fd00:1::2")}

// TestRemove: the namespace is as before Apply, once and twice.
func TestRemove(t *testing.T) {
	for name, c := range goldens(t) {
		t.Run(name, func(t *testing.T) {
			pod := newPod(t)
			pod.Up() // Apply leaves lo up, which does no harm
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
// failed, whichever packet guard there is.
func TestUndo(t *testing.T) {
	for _, features := range []string{"", lacks.Egress, lacks.Egress + "," + lacks.TC} {
		t.Run("lacks "+features, func(t *testing.T) {
			lack(t, features)
			testUndo(t)
		})
	}
}

func testUndo(t *testing.T) {
	pod := newPod(t)
	pod.Up() // going up gives lo its address, which it keeps
	before := state(pod)
	c := bestEffort(contract.ModeNAT)
	c.Interface = "net7"
	if err := Apply(pod.Path(), c); err == nil || !strings.Contains(err.Error(), `"net7"`) {
		t.Errorf("Apply on an interface that is not there: %v", err)
	}

	p, err := open(pod.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	c.Interface = "eth0"
	link, err := p.link.LinkByName(c.Interface)
	if err != nil {
		t.Fatal(err)
	}
	steps, err := p.steps(c, link, new(Guarded))
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
	recount := func(family, chain, text, counter, verdict string) func(*testing.T, *lab.NS) {
		return func(t *testing.T, pod *lab.NS) {
			if counter != "" {
				verdict = `counter name "` + counter + `" ` + verdict
			}
			pod.Run("nft", "replace rule "+strings.Join([]string{family, contract.Table, chain, "handle", ruleHandle(t, pod, family, chain, text), verdict}, " "))
		}
	}
	nft := func(command string) func(*testing.T, *lab.NS) { return run("nft", command) }

	for _, tt := range []struct {
		name   string
		mode   contract.Mode
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
		{"flushed", "nat", nft("flush chain inet tproxy_cni redirect_in"), "the rule of chain redirect_in that sends new connections on the CNI interface to inbound is missing"},
		{"rule 5 of inbound", "nat", deleteRule("inet", "inbound", "redirect to"), "the rule of chain inbound that redirects new connections to ports with a listener is missing"},
		{"rule 2 of closed_in", "tproxy", deleteRule("inet", "closed_in", "jump exempt"), "the rule of chain closed_in that lets exempt connections reach the application is missing"},
		{"the guard's drop", "tproxy", deleteRule("inet", "output", "drops every foreign source"), "the rule of chain output that drops every foreign source is missing"},
		{"frames on the interface", "nat", deleteRule("netdev", "egress", "skuid"), "the rule of chain egress that drops frames of packet sockets is missing"},
		{"the spoofed leg", "nat", deleteRule("inet", "spoofed", "lets uid 7089"), "the rule of chain spoofed that lets uid 7089 open the spoofed leg is missing"},
		{"another counter", "nat", recount("inet", "output", "drops every foreign source", "spoofed", "drop"), "the rule of chain output that drops every foreign source has another counter, or none"},
		{"no counter", "tproxy", recount("inet", "output", "drops every foreign source", "", "drop"), "the rule of chain output that drops every foreign source has another counter, or none"},
		{
			"renamed counter", "nat",
			run("sh", "-c", `t="table inet tproxy_cni"; (echo delete $t; nft -s list $t | sed s/port_clashes/mine/) | nft -f -`),
			"table inet tproxy_cni lacks counter port_clashes",
		},
		{"another's counter", "nat", nft("add counter inet tproxy_cni mine { packets 7 bytes 7; }"), ""},
		{"frames on lo", "tproxy", nft("delete chain netdev tproxy_cni ingress_lo"), "chain ingress_lo of table netdev tproxy_cni is missing"},
		{
			"rule put in between", "nat", nft("insert rule inet tproxy_cni exempt tcp dport 80 accept"),
			"rule 1 of chain exempt of table inet tproxy_cni is unexpected",
		},
		{
			"redirected elsewhere", "nat",
			func(t *testing.T, pod *lab.NS) {
				h := ruleHandle(t, pod, "inet", "inbound", "redirect to")
				pod.Run("nft", "replace", "rule", "inet", contract.Table, "inbound", "handle", h, "meta", "l4proto", "tcp", "redirect", "to", ":6000")
			},
			"the rule of chain inbound that redirects new connections to ports with a listener is missing; rule 5 of chain inbound of table inet tproxy_cni is unexpected",
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
			"marked rule", "nat", run("ip", "rule", "del", "fwmark", "0x1000/0x1000", "lookup", "29808"),
			`ipv4 rule "0: from all fwmark 0x1000/0x1000 lookup 29808" is missing`,
		},
		{
			"unreachable rule", "nat", run("ip", "-6", "rule", "del", "fwmark", "0x1000/0x1000", "unreachable"),
			`ipv6 rule "0: from all fwmark 0x1000/0x1000 unreachable" is missing`,
		},
		{
			"marked rules in another order", "nat", func(_ *testing.T, pod *lab.NS) {
				pod.Run("ip", "rule", "del", "priority", "0", "fwmark", "0x1000/0x1000", "lookup", "29808")
				pod.Run("ip", "rule", "add", "priority", "0", "fwmark", "0x1000/0x1000", "lookup", "29808")
			},
			"ipv4 rules of priority 0 are in another order",
		},
		{
			"another's rule for our mark", "nat", run("ip", "-6", "rule", "add", "priority", "0", "from", "fd00:1::2", "fwmark", "0x1000/0x1000", "lookup", "29808"),
			`ipv6 rule "0: from fd00:1::2/128 fwmark 0x1000/0x1000 lookup 29808" is unexpected`,
		},
		{
			"the kernel's rule is back", "tproxy", run("ip", "rule", "add", "priority", "0", "lookup", "local"),
			`ipv4 rule "0: from all lookup local" is there and shows every address as local`,
		},
		{"ipv4 route", "nat", run("ip", "route", "del", "local", "default", "dev", "lo", "table", "local"), `ipv4 route "local default dev lo table 255" is missing`},
		{"ipv6 route", "nat", run("ip", "-6", "route", "del", "local", "default", "dev", "lo", "table", "29808"), `ipv6 route "local default dev lo table 29808" is missing`},
		{
			"routes of an earlier version", "nat", run("ip", "route", "replace", "local", "default", "dev", "lo", "table", "29808"),
			`ipv4 route "local default dev lo table 29808" has protocol 3, not 110`,
		},
		{
			"routes of the other mode", "tproxy", run("ip", "-6", "route", "replace", "local", "default", "dev", "lo", "table", "29808", "proto", "110"),
			`ipv6 route "local default dev lo table 29808" has protocol 110, not 116`,
		},
		{"bound route", "nat", run("ip", "route", "del", "local", "default", "dev", "eth0", "table", "29808"), `ipv4 route "local default dev eth0 table 29808 metric 2048" is missing`},
		{
			"sysctl", "nat", func(_ *testing.T, pod *lab.NS) { pod.Sysctl("net.ipv4.tcp_fwmark_accept", "0") },
			"sysctl net.ipv4.tcp_fwmark_accept is 0, not 1",
		},
		{
			"a timeout of conntrack", "nat", func(_ *testing.T, pod *lab.NS) { pod.Sysctl(conntrackTimeout+"last_ack", "30") },
			"sysctl net.netfilter.nf_conntrack_tcp_timeout_last_ack is 30, not 300",
		},
		{"a timeout that does not matter", "tproxy", func(_ *testing.T, pod *lab.NS) { pod.Sysctl(conntrackTimeout+"last_ack", "31") }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.name == "frames on the interface" {
				lab.NeedKernel(t, lab.EgressHook)
			}
			t.Parallel()
			pod := newPod(t)
			c := usual(t, tt.mode)
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
	c := goldens(t)["tproxy"]
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
		c := usual(t, contract.ModeNAT)
		c.Interface = name
		apply(t, pod, c)
		if err := Check(pod.Path(), c, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestOneInterface: a second network's ADD and DEL do no harm to the first.
func TestOneInterface(t *testing.T) {
	for name, c := range goldens(t) {
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
