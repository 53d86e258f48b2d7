package redirect

import (
	"net/netip"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// Config says what Apply programs. The zero value of each field is named;
// there is no default beyond those.
type Config struct {
	// Mode is contract.ModeNAT or contract.ModeTProxy.
	Mode string

	// Interface is the pod's interface on which connections are intercepted,
	// CNI_IFNAME.
	Interface string

	ProxyPort uint16 // the sidecar's listener
	AdminPort uint16 // never intercepted
	ProxyUID  uint32 // the only user that may open a connection from a foreign source

	IncludePorts   []PortRange    // ports to intercept; all if empty
	ExcludePorts   []PortRange    // ports not to intercept, also where included
	ExcludeSources []netip.Prefix // clients whose connections are not intercepted
}

// Default is mode on eth0 with all else as package contract has it.
func Default(mode string) Config {
	return Config{
		Mode: mode, Interface: "eth0",
		ProxyPort: contract.ProxyPort, AdminPort: contract.AdminPort, ProxyUID: contract.ProxyUID,
	}
}

// PortRange is a range of TCP ports, both ends inclusive.
type PortRange struct{ Low, High uint16 }

func portSpans(ranges []PortRange) []span {
	spans := make([]span, len(ranges))
	for i, r := range ranges {
		spans[i] = span{port(r.Low), port(r.High)}
	}
	return spans
}

// prefixSpans are the prefixes' first and last addresses, by family.
func prefixSpans(prefixes []netip.Prefix) (v4, v6 []span) {
	for _, p := range prefixes {
		low := p.Masked().Addr().AsSlice()
		high := append([]byte(nil), low...)
		for bit := p.Bits(); bit < len(high)*8; bit++ {
			high[bit/8] |= 0x80 >> (bit % 8)
		}
		if p.Addr().Is4() {
			v4 = append(v4, span{low, high})
		} else {
			v6 = append(v6, span{low, high})
		}
	}
	return v4, v6
}
