package settings

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/plugin/redirect"
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

func (p pod) config() (redirect.Config, error) {
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
func config(mode string, change func(*redirect.Config)) redirect.Config {
	c := redirect.Default(mode)
	if change != nil {
		change(&c)
	}
	return c
}

func prefixes(ps ...string) (list []netip.Prefix) {
	for _, p := range ps {
		list = append(list, netip.MustParsePrefix(p))
	}
	return list
}

func TestConfig(t *testing.T) {
	const everything = `"mode":"tproxy","proxyPort":15000,"proxyUID":4242,"adminPort":15001,` +
		`"includeInboundPorts":"80,8000-8099","excludeInboundPorts":"22","excludeSourceCIDRs":["192.0.2.0/24","2001:db8::/32"]`
	all := func(c *redirect.Config) {
		c.ProxyPort, c.AdminPort, c.ProxyUID = 15000, 15001, 4242
		c.IncludePorts = []redirect.PortRange{{Low: 80, High: 80}, {Low: 8000, High: 8099}}
		c.ExcludePorts = []redirect.PortRange{{Low: 22, High: 22}}
		c.ExcludeSources = prefixes("192.0.2.0/24", "2001:db8::/32")
	}
	for _, tt := range []struct {
		name string
		pod  pod
		want redirect.Config
	}{
		{"nothing is said", pod{}, config("none", nil)},
		{"annotation", pod{annotations: m{"mode": "nat"}}, config("nat", nil)},
		{"node default", pod{entry: `"mode":"tproxy"`}, config("tproxy", nil)},
		{"opted out", pod{entry: `"mode":"tproxy"`, annotations: m{"mode": "none"}}, config("none", nil)},
		{
			"annotation wins",
			pod{entry: `"mode":"tproxy","proxyPort":6000`, annotations: m{"mode": "nat", "proxy-port": "7000"}},
			config("nat", func(c *redirect.Config) { c.ProxyPort = 7000 }),
		},
		{"all in the conflist", pod{entry: everything, own: dual}, config("tproxy", all)},
		{"all in annotations", pod{own: dual, annotations: m{
			"mode": "tproxy", "proxy-port": "15000", "proxy-uid": "4242", "admin-port": "15001",
			"include-inbound-ports": "80,8000-8099", "exclude-inbound-ports": "22", "exclude-source-cidrs": "192.0.2.0/24,2001:db8::/32",
		}}, config("tproxy", all)},
		{
			"spaces",
			pod{annotations: m{"mode": " nat\n", "proxy-port": " 7000", "exclude-inbound-ports": "22, 80 - 81 ", "exclude-source-cidrs": " ::/0 , 0.0.0.0/0"}},
			config("nat", func(c *redirect.Config) {
				c.ProxyPort = 7000
				c.ExcludePorts = []redirect.PortRange{{Low: 22, High: 22}, {Low: 80, High: 81}}
				c.ExcludeSources = prefixes("::/0", "0.0.0.0/0")
			}),
		},
		{
			"bounds",
			pod{annotations: m{"mode": "nat", "proxy-port": "1", "admin-port": "65535", "proxy-uid": "4294967294", "include-inbound-ports": "1-65535"}},
			config("nat", func(c *redirect.Config) {
				c.ProxyPort, c.AdminPort, c.ProxyUID = 1, 65535, 4294967294
				c.IncludePorts = []redirect.PortRange{{Low: 1, High: 65535}}
			}),
		},
		{
			"empty lists take back the node's",
			pod{entry: everything, annotations: m{"include-inbound-ports": "", "exclude-inbound-ports": "", "exclude-source-cidrs": ""}},
			config("tproxy", func(c *redirect.Config) { c.ProxyPort, c.AdminPort, c.ProxyUID = 15000, 15001, 4242 }),
		},
		{"empty lists in the conflist", pod{entry: `"mode":"nat","includeInboundPorts":"","excludeSourceCIDRs":[]`}, config("nat", nil)},
		{
			"ports exchanged",
			pod{annotations: m{"mode": "nat", "proxy-port": "5001", "admin-port": "5000"}},
			config("nat", func(c *redirect.Config) { c.ProxyPort, c.AdminPort = 5001, 5000 }),
		},
		{
			"a clash that the pod mends",
			pod{entry: `"mode":"nat","proxyPort":5001`, annotations: m{"admin-port": "5002"}},
			config("nat", func(c *redirect.Config) { c.ProxyPort, c.AdminPort = 5001, 5002 }),
		},
		{
			"a family that the pod lacks, but it is left alone",
			pod{entry: `"excludeSourceCIDRs":["2001:db8::/32"]`, own: pod4},
			config("none", func(c *redirect.Config) { c.ExcludeSources = prefixes("2001:db8::/32") }),
		},
		{
			"a family, and the pod's addresses are not known",
			pod{entry: `"mode":"nat","excludeSourceCIDRs":["2001:db8::/32"]`},
			config("nat", func(c *redirect.Config) { c.ExcludeSources = prefixes("2001:db8::/32") }),
		},
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
		wantRange = "(want " + wantPorts + ")"
		wantNet   = "(want " + wantCIDRs + ")"
		wantKeys  = "(want mode, proxyPort, proxyUID, adminPort, includeInboundPorts, excludeInboundPorts, excludeSourceCIDRs and CNI's own keys)"
		wantNames = "(want mode, proxy-port, proxy-uid, admin-port, include-inbound-ports, exclude-inbound-ports, exclude-source-cidrs)"
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
		{"port 0", pod{annotations: m{"proxy-port": "0"}}, []string{a + `proxy-port "0": "0" is no port (want 1-65535)`}},
		{"port too large", pod{annotations: m{"admin-port": "65536"}}, []string{a + `admin-port "65536": "65536" is no port (want 1-65535)`}},
		{"no number", pod{annotations: m{"proxy-port": "http"}}, []string{a + `proxy-port "http": "http" is no port (want 1-65535)`}},
		{"sign", pod{annotations: m{"proxy-port": "+80"}}, []string{a + `proxy-port "+80": "+80" is no port (want 1-65535)`}},
		{"hexadecimal", pod{annotations: m{"proxy-port": "0x50"}}, []string{a + `proxy-port "0x50": "0x50" is no port (want 1-65535)`}},
		{"root", pod{annotations: m{"proxy-uid": "0"}}, []string{a + `proxy-uid "0": root is no uid by which to tell the sidecar from others ` + wantUID}},
		{"uid -1", pod{annotations: m{"proxy-uid": "4294967295"}}, []string{a + `proxy-uid "4294967295": no uid ` + wantUID}},
		{
			"upside down",
			pod{annotations: m{"include-inbound-ports": "80,8099-8000"}},
			[]string{a + `include-inbound-ports "80,8099-8000": 8099-8000 is upside down ` + wantRange},
		},
		{
			"several in one list",
			pod{annotations: m{"exclude-inbound-ports": "0,,22-,80,99999,"}},
			[]string{a + `exclude-inbound-ports "0,,22-,80,99999,": "0" is no port, element 2 is empty, "" is no port, "99999" is no port, element 6 is empty ` + wantRange},
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
				`10.0.0.1 has no prefix length, write 10.0.0.1/32, 10.0.0.1/8 has bits set behind its prefix, write 10.0.0.0/8 or 10.0.0.1/32, ` +
				`fd00::1 has no prefix length, write fd00::1/128, ::ffff:10.0.0.0/104 is an IPv4-mapped IPv6 address, write IPv4, ` +
				`"10.0.0.0/33" is no CIDR, "cluster" is no CIDR, "fe80::%eth0/64" is no CIDR ` + wantNet},
		},
		{
			"unknown annotation",
			pod{annotations: m{"proxyport": "5000", "Mode": "nat"}},
			[]string{a + `Mode "nat": unknown ` + wantNames, a + `proxyport "5000": unknown ` + wantNames},
		},
		{"label", pod{annotations: m{"inject": "nat"}}, []string{a + `inject "nat": this is a label (want metadata.labels in its place)`}},
		{
			"unknown key",
			pod{entry: `"proxy-port":5000,"Mode":"nat"`},
			[]string{k + `Mode "nat": unknown ` + wantKeys, k + `proxy-port 5000: unknown ` + wantKeys},
		},
		{
			"JSON types",
			pod{entry: `"mode":1,"proxyPort":"5000","adminPort":null,"proxyUID":1.5,"includeInboundPorts":80,"excludeInboundPorts":["22"],"excludeSourceCIDRs":"::/0"`},
			[]string{
				k + `mode 1: no JSON string (want a string: nat, tproxy or none)`,
				k + `proxyPort "5000": no JSON number (want 1-65535)`,
				k + `proxyUID 1.5: no uid ` + wantUID,
				k + `adminPort null: no JSON number (want 1-65535)`,
				k + `includeInboundPorts 80: no JSON string (want a string: ` + wantPorts + `)`,
				k + `excludeInboundPorts ["22"]: no JSON string (want a string: ` + wantPorts + `)`,
				k + `excludeSourceCIDRs "::/0": no JSON array of strings (want an array of ` + wantCIDRs + `)`,
			},
		},
		{
			"JSON array",
			pod{entry: `"excludeSourceCIDRs":["10.0.0.0/8",null]`},
			[]string{k + `excludeSourceCIDRs ["10.0.0.0/8",null]: no JSON array of strings (want an array of ` + wantCIDRs + `)`},
		},
		{"empty element of a JSON array", pod{entry: `"excludeSourceCIDRs":[""]`}, []string{k + `excludeSourceCIDRs [""]: element 1 is empty ` + wantNet}},
		{"null", pod{entry: `"mode":null`}, []string{k + `mode null: no JSON string (want a string: nat, tproxy or none)`}},
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
			[]string{a + `proxy-port "x": "x" is no port (want 1-65535)`},
		},
		{
			"IPv6 fits nothing",
			pod{annotations: m{"mode": "nat", "exclude-source-cidrs": "10.0.0.0/8,fd00::/8"}, own: pod4},
			[]string{a + `exclude-source-cidrs "10.0.0.0/8,fd00::/8": fd00::/8 fits nothing, the pod has no IPv6 address (want IPv4 CIDRs only)`},
		},
		{
			"IPv4 fits nothing",
			pod{entry: `"mode":"nat","excludeSourceCIDRs":["10.0.0.0/8"]`, own: pod6},
			[]string{k + `excludeSourceCIDRs ["10.0.0.0/8"]: 10.0.0.0/8 fits nothing, the pod has no IPv4 address (want IPv6 CIDRs only)`},
		},
		{
			"faults count for a pod that is left alone, too",
			pod{annotations: m{"mode": "none", "proxy-uid": "me"}},
			[]string{a + `proxy-uid "me": no uid ` + wantUID},
		},
		{
			"everywhere at once",
			pod{entry: `"mode":"yes","port":1`, annotations: m{"mode": "on", "admin-port": "-1", "x": ""}},
			[]string{
				k + `mode "yes": no such mode ` + wantMode, k + `port 1: unknown ` + wantKeys,
				a + `mode "on": no such mode ` + wantMode, a + `admin-port "-1": "-1" is no port (want 1-65535)`, a + `x "": unknown ` + wantNames,
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
		if _, err := s.Config("eth0", nil); err == nil || !strings.Contains(err.Error(), "no JSON object") {
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
	var got []Source
	for _, f := range err.(interface{ Unwrap() []error }).Unwrap() {
		got = append(got, f.(*Fault).Source)
	}
	if diff := cmp.Diff([]Source{Conflist, Annotation, Flag}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if !strings.HasSuffix(err.Error(), `flag --mode "c": no such mode (want nat, tproxy or none)`) {
		t.Error(err)
	}
}

// TestTooMany: a list that the kernel would not take is a fault here, where it
// can be named.
func TestTooMany(t *testing.T) {
	for n, ok := range map[int]bool{maxElements: true, maxElements + 1: false} {
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
