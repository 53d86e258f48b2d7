package redirect

import (
	"errors"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/lab"
)

// goldens are the configurations whose state testdata/ spells out.
func goldens() map[string]Config {
	full := Default(contract.ModeTProxy)
	full.ProxyPort, full.AdminPort, full.ProxyUID = 15000, 15001, 4242
	full.ExcludePorts = []PortRange{{8010, 8014}, {22, 22}, {8015, 8019}, {8012, 8016}}
	full.IncludePorts = []PortRange{{8000, 8999}, {0, 80}}
	full.ExcludeSources = []netip.Prefix{
		netip.MustParsePrefix("203.0.113.7/32"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("192.0.2.0/24"),
	}
	return map[string]Config{"nat": Default(contract.ModeNAT), "tproxy": full}
}

// newPod is a namespace as a CNI chain leaves it to us: eth0 with an address
// of each family, lo down.
func newPod(t testing.TB) *lab.NS {
	t.Helper()
	lab.Need(t, "nft", "ip")
	pod, node := lab.New(t, "pod"), lab.New(t, "node")
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
	return pod
}

// handles are the numbers behind a rule's chain in nft's debug output.
var handles = regexp.MustCompile(`(?m)^(\w+ \w+ \w+)( \d+)+$`)

// state is all that Apply changes, as the system's own tools show it.
func state(ns *lab.NS) map[string]string {
	s := map[string]string{
		"rules, listed":   ns.Run("nft", "-s", "list", "ruleset"),
		"rules, compiled": handles.ReplaceAllString(ns.Run("nft", "--debug=netlink", "list", "ruleset"), "$1"),
		"ip rule":         ns.Run("ip", "-4", "rule"),
		"ip -6 rule":      ns.Run("ip", "-6", "rule"),
		"ip route":        ns.Run("ip", "-4", "route", "show", "table", "all"),
		"ip -6 route":     ns.Run("ip", "-6", "route", "show", "table", "all", "type", "local"),
	}
	for _, key := range sysctls {
		s[key] = ns.Run("cat", sysctlDir+key)
	}
	return s
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
	for name, c := range goldens() {
		t.Run(name, func(t *testing.T) {
			ours, theirs := newPod(t), newPod(t)
			apply(t, ours, c)
			once := state(ours)
			apply(t, ours, c)

			theirs.Up()
			theirs.Run("nft", "-f", "testdata/"+name+".nft")
			theirs.Run("ip", "-4", "-batch", "testdata/ipv4.ip")
			theirs.Run("ip", "-6", "-batch", "testdata/ipv6.ip")
			for _, key := range sysctls {
				theirs.Sysctl(key, "1")
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
