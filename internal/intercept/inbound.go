package intercept

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// linkLocal6 are the addresses that mean nothing off their link.
var linkLocal6 = netip.MustParsePrefix("fe80::/10")

// newConnection is a SYN and nothing else, laterSegment any other TCP segment.
var (
	newConnection = flagsAre(fin|syn|rst|ack, syn)
	laterSegment  = flagsAreNot(fin|syn|rst|ack, syn)
)

// inbound are the chains that hand connections to the sidecar, as the mode has
// it, and what is exempt from that.
func inbound(c Config, s sets) []chain {
	if c.Mode == contract.ModeNAT {
		return []chain{healthIn(c), redirectIn(c), redirected(c, s), exempt(c, s)}
	}
	return []chain{divertIn(c), diverted(c, s), exempt(c, s)}
}

// healthIn is before conntrack: the kubelet must reach the sidecar when conntrack's table
// is full, or it would end every connection by a restart.
func healthIn(c Config) chain {
	return chain{
		"health_in", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw, "",
		[]rule{{
			"keeps connections to the health endpoint out of conntrack",
			nft(iifname(c.Interface), tcp, dport.is(port(c.AdminPort)), fibDaddrIif.local(expr.CmpOpEq), notrack),
		}},
	}
}

// redirectIn looks at SYNs alone: conntrack keeps the rest of a connection, and
// one that was there before ADD has none to redirect, and survives.
func redirectIn(c Config) chain {
	return chain{
		"redirect_in", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest, "",
		[]rule{
			{
				"sends new connections on the CNI interface to inbound",
				nft(iifname(c.Interface), newConnection, goTo("inbound")),
			},
		},
	}
}

func redirected(c Config, s sets) chain {
	return chain{name: "inbound", rules: append(notIntercepted(s), rule{
		"redirects new connections to ports with a listener",
		nft(tcp, socketTransparent(expr.CmpOpLte, 1), count(counterRedirected), redirectTo(c.ProxyPort)),
	})}
}

// divertIn comes before the routing decision, and looks at all segments: the
// kernel has to be told the socket of each that it would not find itself.
func divertIn(c Config) chain {
	return chain{
		"divert_in", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityMangle, "",
		[]rule{
			{
				"refuses a dial from a port that the client is using",
				nft(iifname("lo"), marked(mark), newConnection, socketTransparent(expr.CmpOpEq, 1), count(counterPortClashes), rejectWithReset),
			},
			{"sends TCP on the CNI interface to inbound", nft(iifname(c.Interface), tcp, goTo("inbound"))},
		},
	}
}

func diverted(c Config, s sets) chain {
	return chain{name: "inbound", rules: append(
		notIntercepted(s),
		rule{
			"gives the sidecar new connections to ports with a listener",
			nft(newConnection, socketTransparent(expr.CmpOpLte, 1), tproxyTo(c.ProxyPort), count(counterRedirected), accept),
		},
		rule{
			"refuses an application's transparent listener",
			nft(newConnection, socketTransparent(expr.CmpOpEq, 1), count(counterRefused), rejectWithReset),
		},
		rule{
			"passes segments of the sidecar's connections",
			nft(laterSegment, socketTransparent(expr.CmpOpEq, 1), socketWildcard(0), accept),
		},
		rule{
			"gives the sidecar ACKs of its SYN cookies",
			nft(laterSegment, socketTransparent(expr.CmpOpLte, 1), tproxyTo(c.ProxyPort), skuid(expr.CmpOpEq, c.ProxyUID), accept),
		},
		rule{
			"refuses other ACKs that would reach a listener",
			nft(laterSegment, socketWildcard(1), count(counterRefused), rejectWithReset),
		},
	)}
}

// notIntercepted is how chain inbound begins in both modes.
func notIntercepted(s sets) []rule {
	return []rule{
		{"leaves forwarded IPv4 alone", nft(ip, daddr4.notIn(s.own4), fibDaddrIif.local(expr.CmpOpNeq), accept)},
		{"leaves forwarded IPv6 alone", nft(ip6, daddr6.notIn(s.own6), fibDaddr.local(expr.CmpOpNeq), accept)},
		{"leaves alone what the settings exempt", jump("exempt")},
		{"leaves link-local clients to closed_in", nft(ip6, saddr6.within(linkLocal6), accept)},
	}
}

// exempt accepts what reaches the application, or the admin port, directly. A
// port that is excluded and included is excluded.
func exempt(c Config, s sets) chain {
	clients4, clients6 := prefixSpans(c.ExcludeSources)
	return chain{name: "exempt", rules: []rule{
		{exemptsHealth, nft(tcp, dport.is(port(c.AdminPort)), accept)},
		rule{"exempts exclude-inbound-ports", nft(tcp, dport.in(s.excludePorts), accept)}.when(len(c.ExcludePorts) > 0),
		rule{"exempts ports not in include-inbound-ports", nft(tcp, dport.notIn(s.includePorts), accept)}.when(len(c.IncludePorts) > 0),
		rule{"exempts exclude-source-cidrs of IPv4", nft(ip, saddr4.in(s.exclude4), accept)}.when(len(clients4) > 0),
		rule{"exempts exclude-source-cidrs of IPv6", nft(ip6, saddr6.in(s.exclude6), accept)}.when(len(clients6) > 0),
	}}
}
