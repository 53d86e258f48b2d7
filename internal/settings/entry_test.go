package settings

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
)

func TestNewEntry(t *testing.T) {
	got, err := NewEntry(m{"mode": "nat", "proxy-port": "06000", "exclude-source-cidrs": "10.0.0.0/8, ::/0", "include-inbound-ports": "80, 81"})
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"type":"tproxy-cni","mode":"nat","proxyPort":6000,"includeInboundPorts":"80, 81",` +
		`"excludeSourceCIDRs":["10.0.0.0/8","::/0"],"capabilities":{"io.kubernetes.cri.pod-annotations":true}}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if _, err := NewEntry(m{"mode": "nat", "proxy-port": "0", "admin-port": "x"}); err == nil || strings.Count(err.Error(), "flag --") != 2 {
		t.Errorf("two faults: %v", err)
	}
}

// FuzzSettings: whatever is said, the outcome is faults or a configuration
// that Apply can take, and flags come back the same through a conflist.
func FuzzSettings(f *testing.F) {
	f.Add(`{"mode":"nat","proxyPort":1,"excludeSourceCIDRs":["::/0"]}`, "80,8000-8099", "10.0.0.0/8", "7089", "nat")
	f.Add(`{"adminPort":5000}`, "1-65535", "::ffff:0.0.0.0/96", "0", "none")
	f.Add("{\"\u202e\x1b\":\"\xff\u009b\",\"mode\":[\"\u2028\"]}", "\x1b[2J,\n,\u202e", strings.Repeat("\xff,", 999), "\x00\x7f", "n\u0430t\nlevel=ERROR")
	f.Fuzz(func(t *testing.T, entry, ports, cidrs, uid, mode string) {
		s := New()
		s.Entry([]byte(entry))
		s.Annotations(m{
			"tproxy-cni.io/include-inbound-ports": ports, "tproxy-cni.io/exclude-source-cidrs": cidrs,
			"tproxy-cni.io/proxy-uid": uid, "tproxy-cni.io/" + mode: mode,
		})
		if c, err := s.Config("eth0", nil); err == nil {
			checkValid(t, c)
		} else {
			checkShown(t, err)
		}
		flags := m{"exclude-inbound-ports": ports, "exclude-source-cidrs": cidrs, "proxy-uid": uid, "proxy-port": uid, "mode": mode}
		given := New()
		given.Flags(flags)
		want, err := given.Config("eth0", nil)
		made, err2 := NewEntry(flags)
		if (err == nil) != (err2 == nil) {
			t.Fatalf("flags: %v, entry: %v", err, err2)
		}
		if err != nil {
			return
		}
		back := New()
		back.Entry(made)
		got, err := back.Config("eth0", nil)
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{})); err != nil || diff != "" {
			t.Errorf("through %s: %v\n%s", made, err, diff)
		}
	})
}

// checkShown: a line for each fault, of printable ASCII, and no end to it.
func checkShown(t *testing.T, err error) {
	t.Helper()
	lines := strings.Split(err.Error(), "\n")
	for _, l := range lines {
		if strings.ContainsFunc(l, func(r rune) bool { return r < ' ' || r > '~' }) || len(l) > 2500 {
			t.Errorf("%d bytes: %.300q", len(l), l)
		}
	}
	if len(lines) > 11 || len(lines) != min(len(err.(Faults)), 11) {
		t.Errorf("%d faults in %d lines", len(err.(Faults)), len(lines))
	}
}

func checkValid(t *testing.T, c intercept.Config) {
	t.Helper()
	if c.ProxyPort == 0 || c.AdminPort == 0 || c.ProxyPort == c.AdminPort || c.ProxyUID == 0 || c.ProxyUID == 1<<32-1 {
		t.Errorf("%+v", c)
	}
	for _, r := range append(c.IncludePorts, c.ExcludePorts...) {
		if r.Low == 0 || r.Low > r.High {
			t.Errorf("range %+v", r)
		}
	}
	for _, p := range c.ExcludeSources {
		if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() || p.Addr().Zone() != "" {
			t.Errorf("prefix %v", p)
		}
	}
}
