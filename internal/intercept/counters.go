package intercept

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	mnl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The names of the counters. They are in rules that a connection meets once, or that
// end a packet's way, so that they cost nothing on the others.
const (
	counterRedirected   = "redirected"
	counterSpoofed      = "spoofed"
	counterRefused      = "refused"
	counterPortClashes  = "port_clashes"
	counterLoopRefused  = "loop_refused"
	counterSpoofRefused = "spoof_refused"
	counterGuardDropped = "guard_dropped"

	counterFramesDropped = "frames_dropped" // the only one of table netdev
)

// CounterMeanings has the counters of Counters and what they count, in the order in
// which a connection meets their rules.
var CounterMeanings = []struct{ Name, Counts string }{
	{counterRedirected, "connections that were given to the sidecar"},
	{counterSpoofed, "connections that the sidecar opened to the application from a client's address"},
	{counterRefused, "connections refused because no process listens on the port, or the sidecar does not listen"},
	{counterPortClashes, "connections refused because their port was taken by another one of the same client; either side tries again"},
	{counterLoopRefused, "connections of the sidecar to its own port, refused"},
	{counterSpoofRefused, "packets within the pod from an address that is not the pod's and that are not the sidecar's, dropped"},
	{counterGuardDropped, "packets to the network from an address that is not the pod's, or within the pod to one, dropped"},
	{counterFramesDropped, "frames that processes sent past the network stack, dropped"},
}

// Counters reads how often the rules in the network namespace at path did what
// CounterMeanings says: packets by name, since Apply first programmed it. A name is
// missing where the rules do not have it: no table is there, or it is of an earlier
// version.
//
// Its error is a NoNetNS, or the kernel's. It needs CAP_NET_ADMIN, and CAP_SYS_ADMIN
// to enter a namespace that is not the process's own.
func Counters(path string) (packets map[string]uint64, err error) {
	p, err := open(path)
	if err != nil {
		return nil, err
	}
	defer p.close()
	packets = map[string]uint64{}
	for _, f := range tableFamilies {
		have, err := p.readCounters(f.id)
		if err != nil {
			return nil, fmt.Errorf("read the counters of table %s: %w", f.name, err)
		}
		for name, c := range have {
			packets[name] = c.Packets
		}
	}
	if _, ok := packets[counterFramesDropped]; !ok {
		return packets, nil
	}
	// What the guard by tc drops its qdisc counts, with what filters of other software do
	// if the qdisc is theirs.
	ifname, err := p.device()
	if err != nil {
		return nil, err
	}
	f, err := p.filters(ifname)
	if slices.ContainsFunc(f.egress, func(f filter) bool { return f.ours() && f.handle == handleMade }) {
		packets[counterFramesDropped] += uint64(f.dropped)
	}
	return packets, err
}

// readCounters are those of our table of a family, by name; none without a table.
func (p *pod) readCounters(family nftables.TableFamily) (map[string]expr.Counter, error) {
	have := map[string]expr.Counter{}
	err := dump(p.raw, family, unix.NFT_MSG_GETOBJ, unix.NFTA_OBJ_TABLE, func(attrs map[uint16][]byte) {
		values, err := mnl.UnmarshalAttributes(attrs[unix.NFTA_OBJ_DATA])
		if err != nil || !slices.Equal(attrs[unix.NFTA_OBJ_TYPE], binary.BigEndian.AppendUint32(nil, unix.NFT_OBJECT_COUNTER)) {
			return // an object of another kind, which somebody has put into our table
		}
		var c expr.Counter
		for _, v := range values {
			switch {
			case len(v.Data) != 8:
			case v.Type == unix.NFTA_COUNTER_PACKETS:
				c.Packets = binary.BigEndian.Uint64(v.Data)
			case v.Type == unix.NFTA_COUNTER_BYTES:
				c.Bytes = binary.BigEndian.Uint64(v.Data)
			}
		}
		have[cString(attrs[unix.NFTA_OBJ_NAME])] = c
	})
	return have, err
}

// countersOf are the counters that a table's rules use.
func countersOf(t table) (used []*nftables.CounterObj) {
	for _, m := range CounterMeanings {
		uses := func(e expr.Any) bool {
			ref, ok := e.(*expr.Objref)
			return ok && ref.Name == m.Name
		}
		if slices.ContainsFunc(t.chains, func(ch chain) bool {
			return slices.ContainsFunc(ch.rules, func(r rule) bool { return slices.ContainsFunc(r.expr, uses) })
		}) {
			used = append(used, &nftables.CounterObj{Table: t.Table, Name: m.Name})
		}
	}
	return used
}
