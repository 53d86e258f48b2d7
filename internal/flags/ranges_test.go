package flags

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/internal/ranges"
)

func TestLists(t *testing.T) {
	var ports []ranges.Ports
	if err := Ports(&ports)("80, 8000-8099"); err != nil || !slices.Equal(ports, []ranges.Ports{{Low: 80, High: 80}, {Low: 8000, High: 8099}}) {
		t.Errorf("got %v, %v", ports, err)
	}
	var cidrs []netip.Prefix
	if err := CIDRs(&cidrs)("10.0.0.0/8, fd00::/8"); err != nil || !slices.Equal(cidrs, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}) {
		t.Errorf("got %v, %v", cidrs, err)
	}
	for text, want := range map[string]string{
		"":             `element 1 is empty; want ` + ranges.WantCIDRs,
		"10.0.0.0/8,y": `"y" is not a CIDR; want ` + ranges.WantCIDRs,
		"10.0.0.1":     `10.0.0.1 has no prefix length, write 10.0.0.1/32; want ` + ranges.WantCIDRs,
	} {
		if err := CIDRs(&cidrs)(text); err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
}
