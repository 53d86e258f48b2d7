package intercept

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// goldens are the configurations whose state testdata/ spells out.
func goldens(t testing.TB) map[string]Config {
	full := usual(t, contract.ModeTProxy)
	full.ProxyPort, full.AdminPort, full.ProxyUID = 15000, 15001, 4242
	full.ExcludePorts = []PortRange{{8010, 8014}, {22, 22}, {8015, 8019}, {8012, 8016}}
	full.IncludePorts = []PortRange{{8000, 8999}, {0, 80}}
	full.ExcludeSources = []netip.Prefix{
		netip.MustParsePrefix("203.0.113.7/32"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("192.0.2.0/24"),
	}
	return map[string]Config{"nat": usual(t, contract.ModeNAT), "tproxy": full}
}

// golden is a ruleset of testdata, without the chain whose hook the kernel may lack.
func golden(t *testing.T, name string) string {
	t.Helper()
	text := read(t, "testdata/"+name+".nft")
	if !lab.Has(t, lab.EgressHook) {
		text = strings.Replace(text, chainText(text, "egress"), "", 1)
	}
	return text
}

// usual is the default for a mode, but for the packet guard where the kernel cannot have
// the whole one.
func usual(t testing.TB, mode contract.Mode) Config {
	t.Helper()
	c := Default(mode)
	c.PacketGuard = lab.PacketGuard(t)
	return c
}

// newPod is a namespace as a CNI chain leaves it to us: eth0 with an address
// of each family, lo down.
func newPod(t testing.TB) *lab.NS {
	t.Helper()
	lab.Need(t, "nft", "ip")
	pod := lab.New(t, "pod")
	wire(t, pod)
	return pod
}

// wire gives a pod what a CNI chain does.
func wire(t testing.TB, pod *lab.NS) {
	t.Helper()
	node := lab.New(t, "node")
	lab.Veth(node, "pod0", pod, "eth0")
	node.Addr("pod0", "10.1.0.1/24", "fd00:1::1/64")
	// The golden names no link-local address.
	pod.Run("ip", "link", "set", "eth0", "addrgenmode", "none")
	pod.Run("ip", "-6", "addr", "flush", "dev", "eth0")
	pod.Addr("eth0", "10.1.0.2/24", "fd00:1::2/64")
	pod.Route("default", "10.1.0.1")
	// The kernel adds the address' own route in its own time.
	lab.Eventually(t, "the IPv6 address is there", func() error {
		if out := pod.Run("ip", "-6", "route", "show", "table", "local"); !strings.Contains(out, "local fd00:1::2 ") {
			return errors.New(out)
		}
		return nil
	})
}

// handles are the numbers behind a rule's chain in nft's debug output.
var handles = regexp.MustCompile(`(?m)^(\w+ \w+ \w+)( \d+)+$`)

// state is all that Apply changes, as the system's own tools show it.
func state(ns *lab.NS) map[string]string {
	s := map[string]string{
		"rules, listed":   ns.Run("nft", "-s", "list", "ruleset"),
		"rules, compiled": handles.ReplaceAllString(ns.Run("nft", "--debug=netlink", "list", "ruleset"), "$1"),
		"ip link":         regexp.MustCompile(`group \S+`).FindString(ns.Run("ip", "link", "show", "dev", "eth0")),
		"ip rule":         ns.Run("ip", "-4", "rule"),
		"ip -6 rule":      ns.Run("ip", "-6", "rule"),
		"ip route":        ns.Run("ip", "-4", "route", "show", "table", "all"),
		"tc":              changing.ReplaceAllString(ns.Run("tc", "filter", "show", "dev", "eth0", "egress")+ns.Run("tc", "qdisc", "show", "dev", "eth0"), ""),
		"ip -6 route":     ns.Run("ip", "-6", "route", "show", "table", "all", "type", "local"),
	}
	for _, c := range sysctls {
		// conntrack's come with its module.
		if s[c.key] = c.off; !c.optional || c.has(ns) {
			s[c.key] = strings.TrimSpace(ns.Run("cat", sysctlDir+c.key))
		}
	}
	return s
}

func (s sysctl) has(ns *lab.NS) bool {
	_, err := ns.Try("cat", sysctlDir+s.key)
	return err == nil
}

func apply(t *testing.T, ns *lab.NS, c Config) {
	t.Helper()
	if err := Apply(ns.Path(), c); err != nil {
		t.Fatalf("apply: %v", err)
	}
}

// TestGolden programs one namespace with nft and ip from testdata and another
// with Apply, twice: the kernel must see no difference.
func TestGolden(t *testing.T) {
	lab.NeedKernel(t, lab.EgressHook) // which testdata has
	for name, c := range goldens(t) {
		t.Run(name, func(t *testing.T) {
			ours, theirs := newPod(t), newPod(t)
			apply(t, ours, c)
			once := state(ours)
			apply(t, ours, c)

			theirs.Up()
			theirs.Run("ip", "link", "set", "dev", "eth0", "group", fmt.Sprint(linkGroup))
			theirs.Run("nft", "-f", "testdata/"+name+".nft")
			for family, file := range map[string]string{"-4": "testdata/ipv4.ip", "-6": "testdata/ipv6.ip"} {
				// The files have the protocol of nat mode.
				batch := strings.ReplaceAll(read(t, file), " proto 110", fmt.Sprintf(" proto %d", routeProtocol(c.Mode)))
				batch = strings.ReplaceAll(batch, "7089-7089", fmt.Sprintf("%[1]d-%[1]d", c.ProxyUID))
				path := filepath.Join(t.TempDir(), "routes")
				if err := os.WriteFile(path, []byte(batch), 0o600); err != nil {
					t.Fatal(err)
				}
				theirs.Run("ip", family, "-batch", path)
			}
			for _, s := range sysctlsFor(c.Mode) {
				theirs.Sysctl(s.key, s.on)
			}
			want := state(theirs)
			if diff := cmp.Diff(want, once); diff != "" {
				t.Errorf("testdata and Apply differ (-testdata +Apply):\n%s", diff)
			}
			if diff := cmp.Diff(want, state(ours)); diff != "" {
				t.Errorf("testdata and Apply, called twice, differ (-testdata +Apply):\n%s", diff)
			}
		})
	}
}

// TestUpgrade: on a pod that an earlier version programmed, whose marked packets
// were looked up in table local, Apply leaves what it does on a new one, and Remove
// nothing.
func TestUpgrade(t *testing.T) {
	c := usual(t, contract.ModeNAT)
	fresh, old := newPod(t), newPod(t)
	apply(t, fresh, c)
	before := state(old)
	old.Up()
	old.Run("nft", "table inet tproxy_cni { chain output { type filter hook output priority raw; }; }; table netdev tproxy_cni { set own4 { type ipv4_addr; }; chain frame4 { }; }")
	for _, rule := range []string{"fwmark 0x1000/0x1000 lookup local", "fwmark 0x1000/0x1000 unreachable"} {
		old.Run(append([]string{"ip", "-4", "rule", "add", "priority", "1"}, strings.Fields(rule)...)...)
	}
	old.Run("ip", "-4", "rule", "add", "priority", "2", "lookup", "local", "suppress_prefixlength", "0")
	old.Run("ip", "-4", "rule", "del", "priority", "0")
	if err := Check(old.Path(), c, nil); err == nil || !strings.Contains(err.Error(), `ipv4 rule "1: from all fwmark 0x1000/0x1000 lookup local" is unexpected`) {
		t.Errorf("check says %v", err)
	}
	apply(t, old, c)
	if diff := cmp.Diff(state(fresh), state(old)); diff != "" {
		t.Errorf("a new pod and an old one differ (-new +old):\n%s", diff)
	}
	if err := Remove(old.Path(), c.Interface); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before["ip rule"], state(old)["ip rule"]); diff != "" {
		t.Errorf("rules before and after:\n%s", diff)
	}
}

// TestInterfaceWithoutIPv6: where IPv6 is off on the pod's interface alone, the rest
// is programmed; the route comes with another Apply when it is on again.
func TestInterfaceWithoutIPv6(t *testing.T) {
	pod, c := newPod(t), usual(t, contract.ModeNAT)
	pod.Sysctl("net.ipv6.conf.eth0.disable_ipv6", "1")
	apply(t, pod, c)
	if err := Check(pod.Path(), c, nil); err != nil {
		t.Errorf("check says %v", err)
	}
	pod.Sysctl("net.ipv6.conf.eth0.disable_ipv6", "0")
	if err := Check(pod.Path(), c, nil); err == nil || !strings.Contains(err.Error(), `ipv6 route "local default dev eth0 table 29808 metric 2048" is missing`) {
		t.Errorf("check says %v", err)
	}
	apply(t, pod, c)
	if err := Check(pod.Path(), c, nil); err != nil {
		t.Errorf("check says %v", err)
	}
	pod.Sysctl("net.ipv6.conf.eth0.disable_ipv6", "1")
	if err := Remove(pod.Path(), c.Interface); err != nil {
		t.Error(err)
	}
}
