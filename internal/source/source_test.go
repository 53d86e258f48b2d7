package source

import (
	"net/netip"
	"testing"
)

func TestOf(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1":              "192.0.2.1/32",
		"::ffff:192.0.2.1":       "192.0.2.1/32",
		"127.0.0.1":              "127.0.0.0/8",
		"127.9.8.7":              "127.0.0.0/8",
		"2001:db8:1:2:3:4:5:6":   "2001:db8:1:2::/64",
		"2001:db8:1:2:ffff::":    "2001:db8:1:2::/64",
		"fe80::1%eth0":           "fe80::/64",
		"::1":                    "::/64",
		"fd00::ffff:192.0.2.1":   "fd00::/64",
		"::ffff:0:192.0.2.1":     "::/64",
		"64:ff9b::203.0.113.201": "64:ff9b::/64",
	} {
		if got := Of(netip.MustParseAddr(addr)); got.String() != want {
			t.Errorf("%s is of %s, want %s", addr, got, want)
		}
	}
	if got := Of(netip.Addr{}); got.IsValid() {
		t.Errorf("no address is of %s", got)
	}
}
