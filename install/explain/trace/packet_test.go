package trace

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	mnl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// TestCollect: a packet that is sent on lo comes back with another id and is one
// packet; events of a chain without a hook belong to the one before; the table that
// marks packets is left out; an id that is used again is another packet.
func TestCollect(t *testing.T) {
	client, pod := netip.MustParseAddrPort("198.18.1.2:4510"), netip.MustParseAddrPort("10.244.1.7:8080")
	redirected := netip.MustParseAddrPort("10.244.1.7:5000")
	at := func(id uint32, in, out string, h *Header, s Step) Event { return Event{id, in, out, h, s} }
	one := &Header{client, pod, syn}
	nat, filter := Hook{"prerouting", -100, true}, Hook{"input", 0, false}
	mark := Step{Table: "inet " + TablePrefix + "X", Chain: "prerouting", Verdict: Continue}
	packets := Collect(nil, []Event{
		at(9, "", "", nil, Step{Table: "ip x", Verdict: Accept}), // its beginning was lost
		at(1, "eth0", "", one, mark),
		at(1, "eth0", "", one, Step{Table: "inet t", Chain: "first", Hook: nat, Rule: 1, Verdict: Goto, Target: "second"}),
		at(1, "", "", nil, Step{Table: "inet t", Chain: "second", Rule: 2, Verdict: Accept}),
		at(2, "", "lo", one, Step{Table: "inet t", Chain: "out", Verdict: Accept}),
		at(1, "eth0", "", &Header{client, redirected, syn}, Step{Table: "inet t", Chain: "in", Hook: filter, Rule: 1, Verdict: Drop}),
		at(3, "lo", "", one, Step{Table: "inet t", Chain: "in", Verdict: Accept}),
		at(2, "", "eth0", &Header{pod, client, syn | ack}, Step{Table: "inet t", Chain: "out", Verdict: Accept}),
	})
	want := []*Packet{
		{In: "eth0", Header: *one, Now: Header{client, redirected, syn}, Steps: []Step{
			{Table: "inet t", Chain: "first", Hook: nat, Rule: 1, Verdict: Goto, Target: "second"},
			{Table: "inet t", Chain: "second", Hook: nat, Rule: 2, Verdict: Accept},
			{Table: "inet t", Chain: "in", Hook: filter, Rule: 1, Verdict: Drop},
		}},
		{In: "lo", Out: "lo", Header: *one, Now: *one, Steps: []Step{
			{Table: "inet t", Chain: "out", Verdict: Accept}, {Table: "inet t", Chain: "in", Verdict: Accept},
		}},
		{Out: "eth0", Header: Header{pod, client, syn | ack}, Now: Header{pod, client, syn | ack}, Steps: []Step{{Table: "inet t", Chain: "out", Verdict: Accept}}},
	}
	if diff := cmp.Diff(want, packets, cmpopts.IgnoreUnexported(Packet{}), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	var kinds []string
	for _, p := range packets {
		kinds = append(kinds, p.Kind())
	}
	if diff := cmp.Diff([]string{"SYN", "SYN", "SYN-ACK"}, kinds); diff != "" {
		t.Error(diff)
	}
}

// FuzzHeader: what is short or of no known version is no header.
func FuzzHeader(f *testing.F) {
	f.Add([]byte{0x45}, []byte{1, 2, 3})
	f.Add(make([]byte, 40), make([]byte, 20))
	f.Add(append([]byte{0x60}, make([]byte, 39)...), make([]byte, 20))
	f.Fuzz(func(t *testing.T, network, transport []byte) {
		h := header(network, transport)
		if h != nil && (!h.Src.IsValid() || len(transport) < 14) {
			t.Errorf("%v of %x %x", h, network, transport)
		}
	})
}

// FuzzEvent: a message of the kernel, in which names are whose of a process of the pod
// with NET_ADMIN.
func FuzzEvent(f *testing.F) {
	message := func(fill func(*mnl.AttributeEncoder)) []byte {
		a := mnl.NewAttributeEncoder()
		fill(a)
		b, err := a.Encode()
		if err != nil {
			f.Fatal(err)
		}
		return append([]byte{unix.NFPROTO_INET, 0, 0, 0}, b...)
	}
	f.Add(message(func(a *mnl.AttributeEncoder) {
		a.String(unix.NFTA_TRACE_TABLE, "t")
		a.String(unix.NFTA_TRACE_CHAIN, "\x1b[2J")
		a.Bytes(unix.NFTA_TRACE_RULE_HANDLE, make([]byte, 8))
		a.Bytes(unix.NFTA_TRACE_NETWORK_HEADER, append([]byte{0x45}, make([]byte, 19)...))
		a.Bytes(unix.NFTA_TRACE_TRANSPORT_HEADER, make([]byte, 14))
		a.Nested(unix.NFTA_TRACE_VERDICT, func(a *mnl.AttributeEncoder) error {
			a.Bytes(unix.NFTA_VERDICT_CODE, []byte{0xff, 0xff, 0xff, 0xfd})
			a.String(unix.NFTA_VERDICT_CHAIN, "c")
			return nil
		})
	}))
	f.Add(message(func(a *mnl.AttributeEncoder) {
		a.Bytes(unix.NFTA_TRACE_TYPE, []byte{0, 0, 0, 1})
		a.Bytes(unix.NFTA_TRACE_POLICY, []byte{0, 0, 0, 1})
	}))
	f.Add([]byte{1, 0, 0, 0, 4, 0, 255, 255})
	f.Fuzz(func(t *testing.T, data []byte) {
		var tracer Tracer
		e, ok := tracer.event(mnl.Message{Header: mnl.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_TRACE}, Data: data})
		if ok && e.Verdict == "" {
			t.Errorf("no verdict: %+v", e)
		}
	})
}
