package intercept

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

const mark = contract.Mark

// guard are the chains at the pod's way out: what leaves has a source of the
// pod's own, whatever its mark and whichever process sent it, and on lo only the
// proxy's uid may open a connection from a foreign source.
func guard(c Config, s sets) []chain {
	nat := c.Mode == contract.ModeNAT
	// A proxy that dials its own port would be its own client, without end.
	dialsItself := nft(tcp, dport.is(port(c.ProxyPort)), andFlagsAre(syn|ack, syn), skuid(expr.CmpOpEq, c.ProxyUID))
	chains := []chain{
		// Before conntrack, so that what is dropped costs nothing and what
		// passes has not been altered.
		{
			"output", nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityRaw, "",
			[]rule{
				{"sends what stays in the pod to chain loopback", nft(oifname("lo"), goTo("loopback"))},
				rule{
					"stops answers of another listener on the sidecar's port",
					nft(tcp, sport.is(port(c.ProxyPort)), skuid(expr.CmpOpNeq, c.ProxyUID), goTo("usurper")),
				}.when(nat),
				rule{"keeps answers of the health endpoint out of conntrack", nft(tcp, sport.is(port(c.AdminPort)), notrack)}.when(nat),
				{"lets out the pod's IPv4 addresses", nft(ip, saddr4.in(s.own4), accept)},
				{
					"keeps processes from forging neighbour discovery",
					nft(ip6, icmp6(routerAdvertisement, redirect), present(expr.MetaKeySKUID), count(counterGuardDropped), drop),
				},
				{"lets out the pod's IPv6 addresses", nft(ip6, saddr6.in(s.own6), accept)},
				{"lets out a later address of the outgoing interface", nft(fibSaddrOif.local(expr.CmpOpEq), accept)},
				{
					"lets out a later IPv6 address of any interface",
					nft(ip6, saddr6.isNot(netip.IPv6Loopback().AsSlice()), fibSaddr.local(expr.CmpOpEq), accept),
				},
				{"lets out a later IPv4 address of another interface", nft(ip, saddr4.in(s.learned4), accept)},
				{
					"lets out 0.0.0.0, a source before there is an address",
					nft(ip, saddr4.is(netip.IPv4Unspecified().AsSlice()), accept),
				},
				{
					"lets out ::, the source of duplicate address detection",
					nft(ip6, saddr6.is(netip.IPv6Unspecified().AsSlice()), accept),
				},
				{"drops every foreign source", nft(count(counterGuardDropped), drop)},
			},
		},
		// On lo: what has a foreign source, then the application's answers to
		// its client, then the pod talking to itself.
		{name: "loopback", rules: []rule{
			{
				"looks closer at IPv4 sources that ADD did not know",
				nft(ip, saddr4.notIn(s.own4), saddr4.beginsNot(127), jump("other4")),
			},
			{
				"treats an IPv6 source that no interface has as spoofed",
				nft(ip6, saddr6.notIn(s.own6), fibSaddr.local(expr.CmpOpNeq), goTo("spoofed")),
			},
			{
				"drops a forged SYN-ACK with the mark",
				nft(marked(mark), flagsAre(syn|ack, syn|ack), anySocketWildcard, count(counterGuardDropped), drop),
			},
			{
				"keeps the application's answers to clients out of conntrack",
				nft(marked(mark), flagsAreNot(syn|ack, syn), notrack, accept),
			},
			{"keeps all else between the pod's own addresses", jump("to_own")},
			{
				fmt.Sprintf(refusesDial, c.ProxyUID),
				nft(dialsItself, count(counterLoopRefused), rejectWithReset),
			},
			rule{"keeps dials of the health endpoint out of conntrack", nft(tcp, dport.is(port(c.AdminPort)), notrack)}.when(nat),
			rule{"keeps the answers to them out of conntrack", nft(tcp, sport.is(port(c.AdminPort)), notrack)}.when(nat),
		}},
		// Every IPv4 address is local, by the route of table local; "local on
		// lo" means that no interface has it.
		{name: "other4", rules: []rule{
			{"treats an IPv4 source that no interface has as spoofed", nft(fibSaddrOif.local(expr.CmpOpEq), goTo("spoofed"))},
			{"treats a broadcast address as spoofed", nft(fibSaddr.local(expr.CmpOpNeq), goTo("spoofed"))},
		}},
		// The spoofed leg: only the proxy's uid may send it, and open it. Later
		// segments may come from a closed socket, which has no uid any more.
		{name: "spoofed", rules: []rule{
			{
				// Without the mark the reset would leave the pod.
				fmt.Sprintf(refusesDial, c.ProxyUID),
				nft(dialsItself, setMark(mark), count(counterLoopRefused), rejectWithReset),
			},
			{fmt.Sprintf("drops what any uid but %d sends", c.ProxyUID), nft(skuid(expr.CmpOpNeq, c.ProxyUID), count(counterSpoofRefused), drop)},
			{"keeps the spoofed leg within the pod", jump("to_own")},
			{
				fmt.Sprintf("lets uid %d open the spoofed leg", c.ProxyUID),
				nft(flagsAre(syn|ack, syn), skuid(expr.CmpOpEq, c.ProxyUID), setMark(mark), notrack, count(counterSpoofed), accept),
			},
			{"drops every other SYN", nft(flagsAre(syn|ack, syn), count(counterSpoofRefused), drop)},
			{"lets later segments pass, which may have no uid any more", nft(tcp, setMark(mark), notrack, accept)},
			{"drops all but TCP", nft(count(counterSpoofRefused), drop)},
		}},
		{name: "to_own", rules: []rule{
			{
				"drops IPv4 to a foreign address",
				nft(ip, daddr4.notIn(s.own4), daddr4.beginsNot(127), fibDaddrOif.local(expr.CmpOpEq), count(counterGuardDropped), drop),
			},
			{
				"drops IPv6 to a foreign address",
				nft(ip6, daddr6.notIn(s.own6), daddr6.beginsNot(0xff), fibDaddr.local(expr.CmpOpNeq), count(counterGuardDropped), drop),
			},
		}},
	}
	if nat {
		// Here, and not when a SYN comes in, the kernel says whose a listener is.
		chains = append(chains, chain{name: "usurper", rules: []rule{
			{"remembers that another uid listens on the sidecar's port", nft(tcp, add(s.usurped, sport))},
			{"drops the other listener's answer", drop},
		}})
	}
	return chains
}
