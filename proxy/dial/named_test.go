package dial

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

// TestNamed: whom a header may name, and where the pod shows a client of each family.
func TestNamed(t *testing.T) {
	i := &interfaces{addrs: []string{"127.0.0.1/8", "::1/128", "192.0.2.2/24", "198.51.100.2/31", "2001:db8::2/64", "fe80::2/64"}}
	d := &Dialer{port: 5000, own: &Addrs{list: i.list}}
	for addr, want := range map[string]string{
		"203.0.113.1": "", "2001:db8:1::1": "", "192.0.2.1": "", "198.51.100.3": "", "240.0.0.1": "",
		"192.0.2.2": "the pod itself", "2001:db8::2": "the pod itself",
		"127.0.0.1": "loopback", "::1": "loopback",
		"0.0.0.0": "no host", "0.255.0.1": "no host", "::": "no host",
		"224.0.0.1": "multicast", "ff02::1": "multicast",
		"169.254.1.1": "link-local", "fe80::1": "link-local",
		"255.255.255.255": "broadcast", "192.0.2.255": "broadcast",
		"::ffff:203.0.113.1": "in the form of IPv6", "::ffff:192.0.2.2": "in the form of IPv6",
	} {
		err := d.CheckNamed(netip.MustParseAddr(addr))
		if (want == "") != (err == nil) || err != nil && (!errors.Is(err, errNotNameable) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", addr, err, want)
		}
	}
	if i.asked != 1 {
		t.Errorf("%d questions to the kernel within a second", i.asked)
	}

	four, six := netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8:1::1")
	dst4, dst6 := netip.MustParseAddrPort("192.0.2.2:80"), netip.MustParseAddrPort("[2001:db8::2]:80")
	for _, tt := range []struct {
		client    netip.Addr
		dst, want netip.AddrPort
	}{{four, dst4, dst4}, {six, dst6, dst6}, {six, dst4, dst6}, {four, dst6, dst4}} {
		if got, err := d.InFamily(tt.client, tt.dst); err != nil || got != tt.want {
			t.Errorf("%s to %s: got %s, %v, want %s", tt.client, tt.dst, got, err, tt.want)
		}
	}
	second := netip.MustParseAddr("198.51.100.2")
	for addr, want := range map[netip.Addr]netip.Addr{
		second: second, four: dst4.Addr(), netip.MustParseAddr("127.0.0.1"): dst4.Addr(), {}: dst4.Addr(),
	} {
		if got, err := d.InPod(four, addr); err != nil || got != want {
			t.Errorf("at %s: got %s, %v, want %s", addr, got, err, want)
		}
	}
	if got, err := d.Itself(); err != nil || got != dst4.Addr() {
		t.Errorf("the pod is %s, %v", got, err)
	}

	i.addrs = []string{"2001:db8::2/64"}
	d.own.read = d.own.read.Add(-snapshotAge)
	if got, err := d.InFamily(four, dst6); !errors.Is(err, errNoFamily) {
		t.Errorf("got %s, %v, want %v", got, err, errNoFamily)
	}
	if got, err := d.Itself(); err != nil || got != dst6.Addr() {
		t.Errorf("the pod is %s, %v", got, err)
	}
}
