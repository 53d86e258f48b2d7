package sys

import (
	"net/netip"
	"testing"
)

// TestSockaddr: an address survives the way to the kernel and back.
func TestSockaddr(t *testing.T) {
	for _, s := range []string{"192.0.2.1:80", "[2001:db8::1]:65535", "[fe80::1%7]:1", "0.0.0.0:0", "[::]:5000"} {
		want := netip.MustParseAddrPort(s)
		a := newSockaddr(want)
		if got := a.addrPort(); got != want {
			t.Errorf("%s became %s", want, got)
		}
	}
	a := newSockaddr(netip.MustParseAddrPort("[::ffff:192.0.2.1]:80"))
	if got := a.addrPort(); got != netip.MustParseAddrPort("192.0.2.1:80") {
		t.Errorf("a v4-mapped address became %s", got)
	}
	a = sockaddr{}
	if got := a.addrPort(); got.IsValid() {
		t.Errorf("no family became %s", got)
	}
}
