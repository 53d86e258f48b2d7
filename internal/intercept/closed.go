package intercept

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// closed are the chains that decide what reaches a socket, where it is clear
// that a packet is delivered here. They fail closed: a new connection that the
// sidecar has not taken is refused, and nothing from outside reaches a socket of
// the spoofed leg.
func closed(c Config, s sets) []chain {
	chains := []chain{
		{
			"input", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter, "",
			[]rule{
				{"lets the pod talk to itself", nft(iifname("lo"), accept)},
				{
					"learns an IPv4 address that came after ADD",
					nft(ip, daddr4.notIn(s.own4), fibDaddrIif.local(expr.CmpOpEq), add(s.learned4, daddr4)),
				},
				{
					"refuses a SYN that meets a socket of the spoofed leg",
					nft(newConnection, socketMarked(mark), count(counterPortClashes), rejectWithReset),
				},
				{"drops other segments to sockets of the spoofed leg", nft(tcp, socketMarked(mark), drop)},
				{
					"sends new connections on the CNI interface to closed_in",
					nft(iifname(c.Interface), newConnection, goTo("closed_in")),
				},
			},
		},
		// A frame that a process puts onto lo does not leave the pod.
		{
			"forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter, "",
			[]rule{{"forwards nothing that comes from lo", nft(iifname("lo"), count(counterGuardDropped), drop)}},
		},
	}
	if c.Mode == contract.ModeNAT {
		return append(chains, closedNAT(c, s))
	}
	return append(chains, closedTProxy(c), orphan(s))
}

func closedNAT(c Config, s sets) chain {
	return chain{name: "closed_in", rules: []rule{
		{"refuses while another uid listens on the sidecar's port", nft(tcp, dport.in(s.usurped), count(counterRefused), rejectWithReset)},
		{
			"lets redirected connections reach the sidecar",
			nft(tcp, dport.is(port(c.ProxyPort)), socketTransparent(expr.CmpOpLte, 1), accept),
		},
		{
			"refuses what was redirected, but no process listens",
			nft(tcp, dport.is(port(c.ProxyPort)), count(counterRefused), rejectWithReset),
		},
		{"lets exempt connections reach the application", jump("exempt")},
		{"refuses what the sidecar has not taken", nft(tcp, count(counterRefused), rejectWithReset)},
	}}
}

// closedTProxy asks for the user of the socket and not whether it is
// transparent: what a dead sidecar leaves (TIME_WAIT, a request half open) is
// that, too, and behind it the kernel finds the application's listener.
func closedTProxy(c Config) chain {
	return chain{name: "closed_in", rules: []rule{
		{fmt.Sprintf("lets connections reach sockets of uid %d", c.ProxyUID), nft(skuid(expr.CmpOpEq, c.ProxyUID), accept)},
		{"lets exempt connections reach the application", jump("exempt")},
		{
			"sends SYNs for closed connections of the sidecar to orphan",
			nft(tcp, socketTransparent(expr.CmpOpEq, 1), socketWildcard(0), goTo("orphan")),
		},
		{"refuses what the sidecar has not taken", nft(tcp, count(counterRefused), rejectWithReset)},
	}}
}

// orphan accepts a SYN that meets a connection which the sidecar has closed,
// unless it may be an application's transparent listener: nothing else tells the
// two apart.
func orphan(s sets) chain {
	return chain{name: "orphan", rules: []rule{
		{"refuses sockets that a process has open", nft(tcp, present(expr.MetaKeySKUID), count(counterRefused), rejectWithReset)},
		{"refuses link-local clients", nft(ip6, saddr6.within(linkLocal6), tcp, count(counterRefused), rejectWithReset)},
		{
			"refuses IPv4 not addressed to the CNI interface",
			nft(ip, daddr4.notIn(s.own4), fibDaddrIif.local(expr.CmpOpNeq), tcp, count(counterRefused), rejectWithReset),
		},
		{
			"refuses IPv6 not addressed to the pod",
			nft(ip6, daddr6.notIn(s.own6), fibDaddr.local(expr.CmpOpNeq), tcp, count(counterRefused), rejectWithReset),
		},
		{"lets the client find out that the old connection is over", accept},
	}}
}
