package intercept

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/google/nftables"
	mnl "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// pod is an open network namespace with handles on it.
type pod struct {
	ns    ns.NetNS
	link  *netlink.Handle
	raw   *mnl.Conn      // nftables, in messages
	rules *mnl.Conn      // rtnetlink, in messages; see rtnetlink
	nft   *nftables.Conn // nftables, in the library's words; see library
	lo    netlink.Link
	ipv6  bool      // lo can have IPv6 routes
	ready bool      // our table was there when the pod was opened
	users []idRange // see usersOf
}

// open opens the namespace at path. Its error is a NoNetNS where there is none.
func open(path string) (p *pod, err error) {
	opened := &pod{} // p is nil after a return with an error
	p = opened
	if p.ns, err = getNS(path); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			opened.close()
		}
	}()
	if p.link, err = newHandle(p.ns); err != nil {
		return nil, fmt.Errorf("open rtnetlink in %s: %w", printable.Word(path), err)
	}
	if err = p.dial(); err != nil {
		return nil, fmt.Errorf("open nftables in %s: %w", printable.Word(path), err)
	}
	if p.lo, err = p.link.LinkByName("lo"); err != nil {
		return nil, fmt.Errorf("find lo in %s: %w", printable.Word(path), err)
	}
	if p.ipv6, err = hasIPv6(p.ns, "lo"); err != nil {
		return nil, err
	}
	if p.users, err = usersOf(p.ns); err != nil {
		return nil, err
	}
	p.ready, err = p.hasTable(nftables.TableFamilyINet)
	return p, err
}

// dial opens p.raw, anew if it is open. If that fails, p.raw is closed and
// answers with errors.
func (p *pod) dial() error {
	if p.raw != nil {
		_ = p.raw.Close()
	}
	raw, err := mnl.Dial(unix.NETLINK_NETFILTER, &mnl.Config{NetNS: int(p.ns.Fd())})
	if err == nil {
		p.raw = raw
	}
	return err
}

// library opens the library's connection, which Apply and Remove do without:
// each costs a thread that enters the namespace.
func (p *pod) library() (nft *nftables.Conn, err error) {
	if p.nft == nil {
		p.nft, err = nftables.New(nftables.WithNetNSFd(int(p.ns.Fd())), nftables.AsLasting())
	}
	return p.nft, wrap("open nftables", err)
}

// rtnetlink is the connection for rules.
func (p *pod) rtnetlink() (_ *mnl.Conn, err error) {
	if p.rules == nil {
		p.rules, err = mnl.Dial(unix.NETLINK_ROUTE, &mnl.Config{NetNS: int(p.ns.Fd())})
	}
	return p.rules, wrap("open rtnetlink", err)
}

// interrupt ends what raw and rules read, now and later. Both are open.
func (p *pod) interrupt() {
	past := time.Unix(0, 1)
	_ = p.raw.SetReadDeadline(past)
	_ = p.rules.SetReadDeadline(past)
}

func (p *pod) close() {
	if p.raw != nil {
		_ = p.raw.Close()
	}
	if p.rules != nil {
		_ = p.rules.Close()
	}
	if p.nft != nil {
		_ = p.nft.CloseLasting()
	}
	if p.link != nil {
		p.link.Close()
	}
	_ = p.ns.Close()
}

// familiesOf are the families that the pod has, for its interface of that name,
// which may be gone, in a mode with a sidecar of that uid; "" and 0 where that is not
// known.
func (p *pod) familiesOf(ifname string, mode contract.Mode, uid uint32) []family {
	link, err := p.link.LinkByName(ifname)
	if err != nil {
		link = nil
	}
	return p.families(link, mode, uid)
}

// families are those that the pod has, for its interface; nil where it is gone.
func (p *pod) families(link netlink.Link, mode contract.Mode, uid uint32) []family {
	eth4, eth6 := 0, 0
	if link != nil {
		eth4 = link.Attrs().Index
		// The kernel takes no IPv6 route on an interface that is down or has no
		// IPv6, and has removed the one that was there.
		if on, err := hasIPv6(p.ns, link.Attrs().Name); err == nil && on && link.Attrs().RawFlags&unix.IFF_UP != 0 {
			eth6 = eth4
		}
	}
	all := families(mode, p.lo.Attrs().Index, eth4, eth6)
	if p.canName(idRange{uid, uid}) {
		for i := range all {
			all[i].rules = append(all[i].rules, answersRule(uint8(all[i].af), uid))
		}
	}
	if !p.ipv6 {
		return all[:1]
	}
	return all
}

// canName reports whether a rule of this process's can be for these users.
func (p *pod) canName(users idRange) bool {
	return slices.ContainsFunc(p.users, func(r idRange) bool { return r[0] <= users[0] && users[1] <= r[1] })
}

func (p *pod) hasTable(f nftables.TableFamily) (bool, error) {
	tables, err := p.tables(f)
	_, has := tables[tableID{f, contract.Table}]
	return has, err
}

// tableID is how the kernel knows a table.
type tableID struct {
	family nftables.TableFamily
	name   string
}

// tables are those of a family, or of all if it is NFPROTO_UNSPEC; the value reports
// whether the kernel has taken a table's chains off their hooks (flag dormant).
func (p *pod) tables(f nftables.TableFamily) (map[tableID]bool, error) {
	list := map[tableID]bool{}
	err := dumpAll(p.raw, f, unix.NFT_MSG_GETTABLE, func(family nftables.TableFamily, a map[uint16][]byte) {
		list[tableID{family, cString(a[unix.NFTA_TABLE_NAME])}] = u32(a[unix.NFTA_TABLE_FLAGS])&unix.NFT_TABLE_F_DORMANT != 0
	})
	return list, wrap("list nftables tables", err)
}

// addresses are those of all interfaces except 127.0.0.0/8 and ::1, in order.
func (p *pod) addresses() ([]netip.Addr, error) {
	list, err := listWhole(func() ([]netlink.Addr, error) { return p.link.AddrList(nil, unix.AF_UNSPEC) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var all []netip.Addr
	for _, a := range list {
		addr, ok := netip.AddrFromSlice(a.IP)
		if addr = addr.Unmap(); ok && !addr.IsLoopback() && !slices.Contains(all, addr) {
			all = append(all, addr)
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all, nil
}
