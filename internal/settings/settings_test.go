package settings

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
	"github.com/tproxy-cni/tproxy-cni/internal/ranges"
)

var (
	pod4 = []netip.Addr{netip.MustParseAddr("10.1.0.2")}
	pod6 = []netip.Addr{netip.MustParseAddr("fd00:1::2")}
	dual = append(append([]netip.Addr{}, pod4...), pod6...)
)

// pod is what is said about one: the conflist object's keys besides "type",
// and annotations without their prefix.
type pod struct {
	entry       string
	annotations map[string]string
	own         []netip.Addr
}

func (p pod) config() (intercept.Config, error) {
	s := New()
	entry := `{"type":"tproxy-cni"}`
	if p.entry != "" {
		entry = `{"type":"tproxy-cni",` + p.entry + `}`
	}
	s.Entry([]byte(entry))
	all := map[string]string{"example.org/proxy-port": "not ours"}
	for name, v := range p.annotations {
		all[contract.AnnotationPrefix+name] = v
	}
	s.Annotations(all)
	return s.Config("eth0", p.own)
}

type m = map[string]string

// config is the default with a change.
func config(mode contract.Mode, change func(*intercept.Config)) intercept.Config {
	c := intercept.Default(mode)
	if change != nil {
		change(&c)
	}
	return c
}

func bestEffort(c *intercept.Config) { c.PacketGuard = contract.PacketGuardBestEffort }

func prefixes(ps ...string) (list []netip.Prefix) {
	for _, p := range ps {
		list = append(list, netip.MustParsePrefix(p))
	}
	return list
}

func TestConfig(t *testing.T) {
	const everything = `"mode":"tproxy","proxyPort":15000,"proxyUID":4242,"adminPort":15001,` +
		`"includeInboundPorts":"80,8000-8099","excludeInboundPorts":"22","excludeSourceCIDRs":["192.0.2.0/24","2001:db8::/32"]`
	all := func(c *intercept.Config) {
		c.ProxyPort, c.AdminPort, c.ProxyUID = 15000, 15001, 4242
		c.IncludePorts = []intercept.PortRange{{Low: 80, High: 80}, {Low: 8000, High: 8099}}
		c.ExcludePorts = []intercept.PortRange{{Low: 22, High: 22}}
		c.ExcludeSources = prefixes("192.0.2.0/24", "2001:db8::/32")
	}
	for _, tt := range []struct {
		name string
		pod  pod
		want intercept.Config
	}{
		{"nothing is said", pod{}, config("none", nil)},
		{"annotation", pod{annotations: m{"mode": "nat"}}, config("nat", nil)},
		{"node default", pod{entry: `"mode":"tproxy"`}, config("tproxy", nil)},
		{"opted out", pod{entry: `"mode":"tproxy"`, annotations: m{"mode": "none"}}, config("none", nil)},
		{
			"annotation wins",
			pod{entry: `"mode":"tproxy","proxyPort":6000`, annotations: m{"mode": "nat", "proxy-port": "7000"}},
			config("nat", func(c *intercept.Config) { c.ProxyPort = 7000 }),
		},
		{"all in the conflist", pod{entry: everything, own: dual}, config("tproxy", all)},
		{"all in annotations", pod{own: dual, annotations: m{
			"mode": "tproxy", "proxy-port": "15000", "proxy-uid": "4242", "admin-port": "15001",
			"include-inbound-ports": "80,8000-8099", "exclude-inbound-ports": "22", "exclude-source-cidrs": "192.0.2.0/24,2001:db8::/32",
		}}, config("tproxy", all)},
		{
			"spaces",
			pod{annotations: m{"mode": " nat\n", "proxy-port": " 7000", "exclude-inbound-ports": "22, 80 - 81 ", "exclude-source-cidrs": " ::/0 , 0.0.0.0/0"}},
			config("nat", func(c *intercept.Config) {
				c.ProxyPort = 7000
				c.ExcludePorts = []intercept.PortRange{{Low: 22, High: 22}, {Low: 80, High: 81}}
				c.ExcludeSources = prefixes("::/0", "0.0.0.0/0")
			}),
		},
		{
			"bounds",
			pod{annotations: m{"mode": "nat", "proxy-port": "1", "admin-port": "65535", "proxy-uid": "4294967294", "include-inbound-ports": "1-65535"}},
			config("nat", func(c *intercept.Config) {
				c.ProxyPort, c.AdminPort, c.ProxyUID = 1, 65535, 4294967294
				c.IncludePorts = []intercept.PortRange{{Low: 1, High: 65535}}
			}),
		},
		{
			"empty lists take back the node's",
			pod{entry: everything, annotations: m{"include-inbound-ports": "", "exclude-inbound-ports": "", "exclude-source-cidrs": ""}},
			config("tproxy", func(c *intercept.Config) { c.ProxyPort, c.AdminPort, c.ProxyUID = 15000, 15001, 4242 }),
		},
		{"empty lists in the conflist", pod{entry: `"mode":"nat","includeInboundPorts":"","excludeSourceCIDRs":[]`}, config("nat", nil)},
		{
			"ports exchanged",
			pod{annotations: m{"mode": "nat", "proxy-port": "5001", "admin-port": "5000"}},
			config("nat", func(c *intercept.Config) { c.ProxyPort, c.AdminPort = 5001, 5000 }),
		},
		{
			"a clash that the pod mends",
			pod{entry: `"mode":"nat","proxyPort":5001`, annotations: m{"admin-port": "5002"}},
			config("nat", func(c *intercept.Config) { c.ProxyPort, c.AdminPort = 5001, 5002 }),
		},
		{
			"a family that the pod lacks, but it is left alone",
			pod{entry: `"excludeSourceCIDRs":["2001:db8::/32"]`, own: pod4},
			config("none", func(c *intercept.Config) { c.ExcludeSources = prefixes("2001:db8::/32") }),
		},
		{
			"a family, and the pod's addresses are not known",
			pod{entry: `"mode":"nat","excludeSourceCIDRs":["2001:db8::/32"]`},
			config("nat", func(c *intercept.Config) { c.ExcludeSources = prefixes("2001:db8::/32") }),
		},
		{"a node that does with less", pod{entry: `"mode":"nat","packetGuard":"best-effort"`}, config("nat", bestEffort)},
		{"a pod that does with less than the default", pod{annotations: m{"mode": "nat", "packet-guard": "best-effort"}}, config("nat", bestEffort)},
		{"a pod that asks for more", pod{entry: `"mode":"nat","packetGuard":"best-effort"`, annotations: m{"packet-guard": "required"}}, config("nat", nil)},
		{"a pod takes back nothing that the node requires", pod{entry: `"mode":"nat","packetGuard":"required"`, annotations: m{"packet-guard": "best-effort"}}, config("nat", nil)},
		{"CNI's own keys", pod{entry: `"cniVersion":"1.1.0","name":"n","prevResult":{},"args":{},"dns":{},"ipam":{},"ipMasq":false,` +
			`"capabilities":{},"runtimeConfig":{},"disableCheck":true,"disableGC":true,"cni.dev/valid-attachments":[],"cni.dev/new":1`}, config("none", nil)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.pod.config()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// TestFaults: every fault is named in full, and nothing but them.
func TestFaults(t *testing.T) {
	const (
		wantUID   = "(want 1-4294967294, the sidecar's own uid)"
		wantMode  = "(want nat, tproxy or none)"
		wantRange = "(want " + ranges.WantPorts + ")"
		wantNet   = "(want " + ranges.WantCIDRs + ")"
		wantKeys  = "(want mode, proxyPort, proxyUID, adminPort, includeInboundPorts, excludeInboundPorts, excludeSourceCIDRs, packetGuard, exemptNamespaces and CNI's own keys)"
		wantNames = "(want mode, proxy-port, proxy-uid, admin-port, include-inbound-ports, exclude-inbound-ports, exclude-source-cidrs, packet-guard, proxy-protocol-from, proxy-protocol-ports)"
		a         = "annotation tproxy-cni.io/"
		k         = "conflist key "
	)
	for _, tt := range []struct {
		name string
		pod  pod
		want []string
	}{
		{"mode", pod{annotations: m{"mode": "NAT"}}, []string{a + `mode "NAT": no such mode ` + wantMode}},
		{"mode, empty", pod{annotations: m{"mode": ""}}, []string{a + `mode "": no such mode ` + wantMode}},
		{"port 0", pod{annotations: m{"proxy-port": "0"}}, []string{a + `proxy-port "0": "0" is not a port (want 1-65535)`}},
		{"port too large", pod{annotations: m{"admin-port": "65536"}}, []string{a + `admin-port "65536": "65536" is not a port (want 1-65535)`}},
		{"no number", pod{annotations: m{"proxy-port": "http"}}, []string{a + `proxy-port "http": "http" is not a port (want 1-65535)`}},
		{"sign", pod{annotations: m{"proxy-port": "+80"}}, []string{a + `proxy-port "+80": "+80" is not a port (want 1-65535)`}},
		{"hexadecimal", pod{annotations: m{"proxy-port": "0x50"}}, []string{a + `proxy-port "0x50": "0x50" is not a port (want 1-65535)`}},
		{"root", pod{annotations: m{"proxy-uid": "0"}}, []string{a + `proxy-uid "0": uid 0 not allowed: every root process in the pod could spoof ` + wantUID}},
		{"uid -1", pod{annotations: m{"proxy-uid": "4294967295"}}, []string{a + `proxy-uid "4294967295": not a uid ` + wantUID}},
		{
			"reversed",
			pod{annotations: m{"include-inbound-ports": "80,8099-8000"}},
			[]string{a + `include-inbound-ports "80,8099-8000": range 8099-8000 is reversed ` + wantRange},
		},
		{
			"several in one list",
			pod{annotations: m{"exclude-inbound-ports": "0,,22-,80,99999,"}},
			[]string{a + `exclude-inbound-ports "0,,22-,80,99999,": "0" is not a port, element 2 is empty, "" is not a port, "99999" is not a port, element 6 is empty ` + wantRange},
		},
		{
			"only a comma",
			pod{annotations: m{"exclude-source-cidrs": ","}},
			[]string{a + `exclude-source-cidrs ",": element 1 is empty, element 2 is empty ` + wantNet},
		},
		{
			"no CIDRs",
			pod{annotations: m{"exclude-source-cidrs": "10.0.0.1,10.0.0.1/8,fd00::1,::ffff:10.0.0.0/104,10.0.0.0/33,cluster,fe80::%eth0/64"}},
			[]string{a + `exclude-source-cidrs "10.0.0.1,10.0.0.1/8,fd00::1,::ffff:10.0.0.0/104,10.0.0.0/33,cluster,fe80::%eth0/64": ` +
				`10.0.0.1 has no prefix length, write 10.0.0.1/32, 10.0.0.1/8 has host bits set, write 10.0.0.0/8 or 10.0.0.1/32, ` +
				`fd00::1 has no prefix length, write fd00::1/128, ::ffff:10.0.0.0/104 is an IPv4-mapped IPv6 address, write IPv4, ` +
				`"10.0.0.0/33" is not a CIDR, "cluster" is not a CIDR, "fe80::%eth0/64" is not a CIDR ` + wantNet},
		},
		{
			"unknown annotation",
			pod{annotations: m{"proxyport": "5000", "Mode": "nat"}},
			[]string{a + `Mode "nat": unknown ` + wantNames, a + `proxyport "5000": unknown ` + wantNames},
		},
		{"label", pod{annotations: m{"inject": "nat"}}, []string{a + `inject "nat": this is a label, not an annotation (want it in metadata.labels)`}},
		{
			"unknown key",
			pod{entry: `"proxy-port":5000,"Mode":"nat"`},
			[]string{k + `Mode "nat": unknown ` + wantKeys, k + `proxy-port 5000: unknown ` + wantKeys},
		},
		{
			"JSON types",
			pod{entry: `"mode":1,"proxyPort":"5000","adminPort":null,"proxyUID":1.5,"includeInboundPorts":80,"excludeInboundPorts":["22"],"excludeSourceCIDRs":"::/0"`},
			[]string{
				k + `mode 1: not a JSON string (want a string: nat, tproxy or none)`,
				k + `proxyPort "5000": not a JSON number (want 1-65535)`,
				k + `proxyUID 1.5: not a uid ` + wantUID,
				k + `adminPort null: not a JSON number (want 1-65535)`,
				k + `includeInboundPorts 80: not a JSON string (want a string: ` + ranges.WantPorts + `)`,
				k + `excludeInboundPorts ["22"]: not a JSON string (want a string: ` + ranges.WantPorts + `)`,
				k + `excludeSourceCIDRs "::/0": not a JSON array of strings (want an array of ` + ranges.WantCIDRs + `)`,
			},
		},
		{
			"JSON array",
			pod{entry: `"excludeSourceCIDRs":["10.0.0.0/8",null]`},
			[]string{k + `excludeSourceCIDRs ["10.0.0.0/8",null]: not a JSON array of strings (want an array of ` + ranges.WantCIDRs + `)`},
		},
		{"empty element of a JSON array", pod{entry: `"excludeSourceCIDRs":[""]`}, []string{k + `excludeSourceCIDRs [""]: element 1 is empty ` + wantNet}},
		{"null", pod{entry: `"mode":null`}, []string{k + `mode null: not a JSON string (want a string: nat, tproxy or none)`}},
		{
			"one port for both",
			pod{annotations: m{"proxy-port": "5001"}},
			[]string{a + `proxy-port "5001": this is the admin port by default (want two different ports)`},
		},
		{
			"one port for both, in the conflist",
			pod{entry: `"adminPort":6000,"proxyPort":6000`},
			[]string{k + `adminPort 6000: this is the proxy port, by conflist key proxyPort 6000 (want two different ports)`},
		},
		{
			"one port for both, by the pod",
			pod{entry: `"adminPort":6000`, annotations: m{"proxy-port": "6000"}},
			[]string{a + `proxy-port "6000": this is the admin port, by conflist key adminPort 6000 (want two different ports)`},
		},
		{
			"no clash with what is not valid",
			pod{annotations: m{"proxy-port": "x", "admin-port": "5000"}},
			[]string{a + `proxy-port "x": "x" is not a port (want 1-65535)`},
		},
		{
			"IPv6 matches nothing",
			pod{annotations: m{"mode": "nat", "exclude-source-cidrs": "10.0.0.0/8,fd00::/8"}, own: pod4},
			[]string{a + `exclude-source-cidrs "10.0.0.0/8,fd00::/8": fd00::/8 matches nothing: the pod has no IPv6 address (want IPv4 CIDRs only)`},
		},
		{
			"IPv4 matches nothing",
			pod{entry: `"mode":"nat","excludeSourceCIDRs":["10.0.0.0/8"]`, own: pod6},
			[]string{k + `excludeSourceCIDRs ["10.0.0.0/8"]: 10.0.0.0/8 matches nothing: the pod has no IPv4 address (want IPv6 CIDRs only)`},
		},
		{
			"faults count for a pod that is left alone, too",
			pod{annotations: m{"mode": "none", "proxy-uid": "me"}},
			[]string{a + `proxy-uid "me": not a uid ` + wantUID},
		},
		{
			"the sidecar's",
			pod{annotations: m{"proxy-protocol-from": "10.0.0.1/8,x", "proxy-protocol-ports": "80-"}},
			[]string{
				a + `proxy-protocol-from "10.0.0.1/8,x": 10.0.0.1/8 has host bits set, write 10.0.0.0/8 or 10.0.0.1/32, "x" is not a CIDR ` + wantNet,
				a + `proxy-protocol-ports "80-": "" is not a port (want ` + ranges.WantPorts + `)`,
			},
		},
		{
			"the sidecar's ports alone",
			pod{annotations: m{"proxy-protocol-ports": "80", "proxy-protocol-from": " "}},
			[]string{a + `proxy-protocol-ports "80": without proxy-protocol-from it does nothing (want both, or neither)`},
		},
		{
			"the sidecar's in the conflist",
			pod{entry: `"proxy-protocol-from":"10.0.0.0/8"`},
			[]string{k + `proxy-protocol-from "10.0.0.0/8": unknown ` + wantKeys},
		},
		{
			"everywhere at once",
			pod{entry: `"mode":"yes","port":1`, annotations: m{"mode": "on", "admin-port": "-1", "x": ""}},
			[]string{
				k + `mode "yes": no such mode ` + wantMode, k + `port 1: unknown ` + wantKeys,
				a + `mode "on": no such mode ` + wantMode, a + `admin-port "-1": "-1" is not a port (want 1-65535)`, a + `x "": unknown ` + wantNames,
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := tt.pod.config()
			if err == nil {
				t.Fatal("no fault")
			}
			if diff := cmp.Diff(tt.want, strings.Split(err.Error(), "\n")); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
	for _, entry := range []string{``, `null`, `[]`, `"nat"`, `{"mode":`} {
		s := New()
		s.Entry([]byte(entry))
		if _, err := s.Config("eth0", nil); err == nil || !strings.Contains(err.Error(), "not a JSON object") {
			t.Errorf("entry %q: %v", entry, err)
		}
	}
}

// TestSource: it is known which source a fault is of.
func TestSource(t *testing.T) {
	s := New()
	s.Entry([]byte(`{"mode":"a"}`))
	s.Annotations(m{"tproxy-cni.io/mode": "b"})
	s.Flags(m{"mode": "c"})
	_, err := s.Config("eth0", nil)
	var faults Faults
	if !errors.As(fmt.Errorf("wrapped: %w", err), &faults) {
		t.Fatalf("%T", err)
	}
	var got []Source
	for _, f := range faults {
		got = append(got, f.Source)
	}
	if !faults.From(Conflist) || !faults.From(Flag) || faults[1:].From(Conflist) {
		t.Errorf("From: %v", faults)
	}
	if diff := cmp.Diff([]Source{Conflist, Annotation, Flag}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if !strings.HasSuffix(err.Error(), `flag --mode "c": no such mode (want nat, tproxy or none)`) {
		t.Error(err)
	}
}

// TestSidecarFlags: what the annotations ask of the sidecar, for whoever injects it.
func TestSidecarFlags(t *testing.T) {
	for _, tt := range []struct {
		annotations m
		want        []string
	}{
		{m{"mode": "nat"}, nil},
		{m{"mode": "nat", "proxy-protocol-from": " "}, nil},
		{m{"proxy-protocol-from": " 10.0.0.0/8, fd00::/8\n"}, []string{"--proxy-protocol-from= 10.0.0.0/8, fd00::/8\n"}},
		{
			m{"proxy-protocol-from": "10.0.0.0/8", "proxy-protocol-ports": "80,8000-8099"},
			[]string{"--proxy-protocol-from=10.0.0.0/8", "--proxy-protocol-ports=80,8000-8099"},
		},
	} {
		s, all := New(), map[string]string{}
		for name, v := range tt.annotations {
			all[contract.AnnotationPrefix+name] = v
		}
		s.Annotations(all)
		if _, err := s.Config("eth0", nil); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(tt.want, s.SidecarFlags()); diff != "" {
			t.Errorf("%v: -want +got:\n%s", tt.annotations, diff)
		}
	}
}

// TestTooMany: a list that the kernel would not take is a fault here, where it
// can be named.
func TestTooMany(t *testing.T) {
	for n, ok := range map[int]bool{ranges.Most: true, ranges.Most + 1: false} {
		s := New()
		s.Annotations(map[string]string{
			contract.AnnotationPrefix + "mode":                  "nat",
			contract.AnnotationPrefix + "exclude-inbound-ports": strings.TrimSuffix(strings.Repeat("80,", n), ","),
		})
		_, err := s.Config("eth0", nil)
		if ok && err != nil || !ok && (err == nil || !strings.Contains(err.Error(), "1001 elements, more than 1000")) {
			t.Errorf("%d elements: %v", n, err)
		}
	}
}

// TestForeignTexts: keys and values are quoted and cut wherever a fault shows
// them, and so are the faults.
func TestForeignTexts(t *testing.T) {
	const a = "annotation "
	long := strings.Repeat("x\n", 100_000)
	for _, tt := range []struct {
		name string
		pod  pod
		want []string // what begins each line
	}{
		{"key", pod{annotations: m{"a\nb": "1"}}, []string{a + `"tproxy-cni.io/a\nb" "1": unknown`}},
		{"key that says more than its name", pod{annotations: m{`mode "nat": fine; annotation x`: "\u202e"}}, []string{a + `"tproxy-cni.io/mode \"nat\": fine; annotation x" "\u202e": unknown`}},
		{"long key", pod{annotations: m{long: long}}, []string{a + `"tproxy-cni.io/` + strings.Repeat(`x\n`, 28) + `x"... (200014 bytes) "` + strings.Repeat(`x\n`, 33) + `x"... (200000 bytes): unknown`}},
		{"key of the conflist", pod{entry: `"a\u001bb":"\u009b` + "\x1f" + `"`}, nil},
		{"value of the conflist", pod{entry: `"mode":"\u202e` + "\u202e" + `"`}, []string{`conflist key mode "\u202e\u202e": no such mode`}},
		{"array of the conflist", pod{entry: "\"excludeSourceCIDRs\":[\n \"\u009bx\" ]"}, []string{`conflist key excludeSourceCIDRs [;  "\u009bx" ]: "\u009bx" is not a CIDR`}},
		{
			"1,000 elements",
			pod{annotations: m{"exclude-source-cidrs": strings.TrimSuffix(strings.Repeat("\x1b,", 1000), ",")}},
			[]string{a + `tproxy-cni.io/exclude-source-cidrs "` + strings.Repeat(`\x1b,`, 20) + `"... (1999 bytes): ` + strings.Repeat(`"\x1b" is not a CIDR, `, 10) + "and 990 more (want"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := tt.pod.config()
			if err == nil {
				t.Fatal("no fault")
			}
			lines := strings.Split(err.Error(), "\n")
			for i, want := range tt.want {
				if len(lines) != len(tt.want) || !strings.HasPrefix(lines[i], want) {
					t.Errorf("got  %q\nwant %q", lines, want)
				}
			}
			for _, l := range lines {
				if strings.ContainsFunc(l, func(r rune) bool { return r < ' ' || r > '~' }) || len(l) > 1500 {
					t.Errorf("%d bytes: %+.300q", len(l), l)
				}
			}
		})
	}
	many := m{}
	for i := range 1000 {
		many[fmt.Sprintf("x%03d", i)] = long
	}
	_, err := pod{annotations: many}.config()
	if lines := strings.Split(err.Error(), "\n"); len(lines) != 11 || lines[10] != "and 990 more" || len(err.Error()) > 5000 {
		t.Errorf("%d lines, %d bytes", len(lines), len(err.Error()))
	}
}

// TestExempt: which pods the node's default mode does not apply to, and the same
// through an entry that the installer writes.
func TestExempt(t *testing.T) {
	for _, tt := range []struct {
		flags      m
		namespace  string
		annotation string
		want       contract.Mode
	}{
		{m{"mode": "nat"}, "kube-system", "", contract.ModeNone},
		{m{"mode": "nat"}, "openshift-dns", "", contract.ModeNone},
		{m{"mode": "nat"}, "openshift", "", contract.ModeNAT},
		{m{"mode": "nat"}, "my-kube-system", "", contract.ModeNAT},
		{m{"mode": "nat"}, "demo", "", contract.ModeNAT},
		{m{"mode": "nat"}, "", "", contract.ModeNAT},
		{m{"mode": "nat"}, "kube-system", "tproxy", contract.ModeTProxy},
		{m{"mode": "nat"}, "kube-system", "none", contract.ModeNone},
		{m{"mode": "nat", "exempt-namespaces": ""}, "kube-system", "", contract.ModeNAT},
		{m{"mode": "nat", "exempt-namespaces": "demo, test-*"}, "test-1", "", contract.ModeNone},
		{m{"mode": "nat", "exempt-namespaces": "demo, test-*"}, "test", "", contract.ModeNAT},
		{m{"mode": "nat", "exempt-namespaces": "demo, test-*"}, "demo", "", contract.ModeNone},
		{m{"mode": "nat", "exempt-namespaces": "demo, test-*"}, "kube-system", "", contract.ModeNAT},
		{m{}, "kube-system", "nat", contract.ModeNAT},
	} {
		entry, err := NewEntry(tt.flags)
		if err != nil {
			t.Fatal(err)
		}
		s := New()
		s.Entry(entry)
		if tt.annotation != "" {
			s.Annotations(m{contract.AnnotationPrefix + "mode": tt.annotation})
		}
		s.Namespace(tt.namespace)
		if c, err := s.Config("eth0", nil); err != nil || c.Mode != tt.want {
			t.Errorf("%s, namespace %q, annotation %q: mode %s, %v; want %s", entry, tt.namespace, tt.annotation, c.Mode, err, tt.want)
		}
	}
	for value, want := range map[string]string{
		`"demo"`: "not a JSON array", `["Demo"]`: `"Demo" is no namespace`, `["*"]`: `"*" is no namespace`,
		`["a*b"]`: `"a*b" is no namespace`, `[""]`: `"" is no namespace`, `null`: "not a JSON array",
	} {
		s := New()
		s.Entry([]byte(`{"mode":"nat","exemptNamespaces":` + value + `}`))
		if _, err := s.Config("eth0", nil); err == nil || !strings.Contains(err.Error(), "conflist key exemptNamespaces "+value+": "+want) {
			t.Errorf("%s: %v, want %q", value, err, want)
		}
	}
	s := New()
	s.Annotations(m{contract.AnnotationPrefix + "exempt-namespaces": "demo"})
	if _, err := s.Config("eth0", nil); err == nil {
		t.Error("an annotation exempts namespaces")
	}
}
