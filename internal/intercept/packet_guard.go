package intercept

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/lacks"
)

// EgressHook is what the whole packet guard takes, as errors and reports name it.
const EgressHook = "nft netdev egress hook (Linux 5.16 with CONFIG_NETFILTER_EGRESS)"

// Guarded is the packet guard of a pod: what keeps frames of packet sockets, which
// pass no chain of table inet, from leaving by the CNI interface. On lo the same chain
// guards on every kernel.
type Guarded struct {
	Guard contract.Guard
	Why   string // why it is not tc either; empty for the others
}

// String says what the guard is and what it lets through.
func (g Guarded) String() string {
	switch g.Guard {
	case contract.GuardNFT:
		return "packet guard nft: no frame of a packet socket leaves the pod"
	case contract.GuardTC:
		return "packet guard tc, a filter in place of the " + EgressHook + ": frames of packet sockets are dropped, but not those sent with PACKET_QDISC_BYPASS"
	}
	text := "packet guard none, in place of the " + EgressHook
	if g.Why != "" {
		text += " (and no tc: " + g.Why + ")"
	}
	return text + ": a process with CAP_NET_RAW can send any frame by a packet socket"
}

// NoGuard is the error for a pod that requires the whole packet guard on a kernel
// without the hook for it.
type NoGuard struct{ Err error }

func (e NoGuard) Error() string {
	return "packet guard: this kernel lacks the " + EgressHook + ": " + e.Err.Error() + guardCure
}

// guardCure is what to do for a pod that requires more than its kernel can.
const guardCure = "; for the next best guard, a tc egress filter, set packetGuard to " + contract.PacketGuardBestEffort +
	" in the plugin's conflist entry (installer: --packet-guard=" + contract.PacketGuardBestEffort +
	", chart: settings.packet-guard), or, unless that entry says " + contract.PacketGuardRequired + ", annotate the pod with " +
	contract.AnnotationPrefix + "packet-guard: " + contract.PacketGuardBestEffort

func (e NoGuard) Unwrap() error { return e.Err }

// programGuarded replaces the tables by those for c. Where the kernel has no hook for
// chain egress, the tables are programmed without it if c allows that; the
// guard in its place is still to be made.
func (p *pod) programGuarded(c Config, own []netip.Addr) (g Guarded, err error) {
	if !lacks.This(lacks.Egress) {
		if err = p.program(ruleset(c, own)); err == nil {
			return Guarded{Guard: contract.GuardNFT}, nil
		}
	}
	missing := p.tryEgress(c.Interface)
	switch {
	case missing == nil:
		return g, err // it was something else
	case !errors.Is(missing, unix.EOPNOTSUPP):
		return g, errors.Join(err, missing)
	case c.PacketGuard == contract.PacketGuardRequired:
		return g, NoGuard{missing}
	}
	return Guarded{Guard: contract.GuardNone}, p.program(withoutEgress(ruleset(c, own)))
}

// tryEgress finds out whether the kernel takes a chain at the egress of a device:
// EOPNOTSUPP means that it has no such hook. It leaves nothing behind. A hook of a
// chain is a feature that no other shows: distributions leave it out of new kernels,
// and have it in old ones.
func (p *pod) tryEgress(device string) error {
	if lacks.This(lacks.Egress) {
		return fmt.Errorf("add a chain: %w", unix.EOPNOTSUPP)
	}
	return wrap("add a chain", p.transact(func(conn *nftables.Conn) error {
		t := table{Table: &nftables.Table{Name: contract.Table + "_probe", Family: nftables.TableFamilyNetdev}}
		conn.AddTable(t.Table)
		conn.AddChain(chain{
			"egress", nftables.ChainTypeFilter, nftables.ChainHookEgress, nftables.ChainPriorityFilter, device, nil,
		}.in(t))
		conn.DelTable(t.Table)
		return nil
	}))
}

// withoutEgress are the tables for a kernel without that hook.
func withoutEgress(tables []table) []table {
	for i, t := range tables {
		tables[i].chains = slices.DeleteFunc(t.chains, func(ch chain) bool { return ch.hook == nftables.ChainHookEgress && ch.device != "" })
	}
	return tables
}

// guardStep makes the guard that takes the place of chain egress, and finds out which it
// is; with that chain there, an earlier one goes.
func (p *pod) guardStep(ifname string, g *Guarded) step {
	return step{
		func() error {
			if g.Guard == contract.GuardNFT {
				if p.ready {
					return p.unguardTC(ifname)
				}
				return nil
			}
			err := p.guardByTC(ifname)
			switch {
			case err == nil:
				*g = Guarded{Guard: contract.GuardTC}
			case !refused(err):
				return err
			default:
				g.Why = err.Error()
				// Who programmed the pod before may have been able to do more.
				if f, err := p.filters(ifname); err == nil && len(f.egress) > 0 && f.egress[0].ours() {
					*g = Guarded{Guard: contract.GuardTC}
				}
			}
			return nil
		},
		func() error { return p.unguardTC(ifname) },
	}
}

// refused reports whether err means that the guard by tc cannot be: this kernel or this
// process lacks something, or other software has its place. Any other error is no reason
// for a weaker guard.
func refused(err error) bool {
	return oneOf(err, unix.ENOENT, unix.EOPNOTSUPP, unix.ENOSYS, unix.EINVAL, unix.EPERM, unix.EEXIST)
}

// Transient reports whether the kernel may take what it refused with err, if it is asked
// again.
func Transient(err error) bool {
	return oneOf(err, unix.EAGAIN, unix.EBUSY, unix.EINTR, unix.ENOBUFS, unix.ENOMEM, unix.EMFILE, unix.ENFILE)
}

func oneOf(err error, list ...error) bool {
	return slices.ContainsFunc(list, func(e error) bool { return errors.Is(err, e) })
}

// markStep makes the route by which the pod's processes can tell the guard.
func (p *pod) markStep(g *Guarded) step {
	return step{
		func() error {
			m, ok := p.mark(g.Guard)
			switch {
			case ok:
				return wrap("add the route that names the packet guard", p.link.RouteReplace(&m))
			case p.ready:
				return p.removeMark()
			}
			return nil
		},
		p.removeMark,
	}
}

// mark is the route that names a guard; ok is false for the whole one, which has none.
// It is for IPv4, which every pod has on lo, and behind another that means the same, so
// that no packet takes it.
func (p *pod) mark(g contract.Guard) (r netlink.Route, ok bool) {
	r = everyAddress(p.lo.Attrs().Index, unix.AF_INET, contract.RouteTable, contract.GuardMetric)
	switch g {
	case contract.GuardTC:
		r.Protocol = contract.RouteProtocolGuardTC
	case contract.GuardNone:
		r.Protocol = contract.RouteProtocolGuardNone
	}
	return r, r.Protocol != unix.RTPROT_UNSPEC
}

func (p *pod) removeMark() error {
	r, _ := p.mark(contract.GuardNFT)
	if err := p.link.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
		return wrap("delete the route that names the packet guard", err)
	}
	return nil
}

// checkGuard names what is not as the guard that Apply makes, c's want, makes it, and
// says if c asks for more. What chain egress lacks is diffTables' business.
func (p *pod) checkGuard(c Config, want wanted) (drift []string, err error) {
	expect := want.guard.Guard
	if expect != contract.GuardNFT {
		have, err := p.filters(c.Interface)
		if err != nil {
			return nil, err
		}
		switch {
		case expect == contract.GuardTC:
			drift = diffFilters(c.Interface, want.filters, have.egress)
		case slices.ContainsFunc(have.egress, filter.ours):
			// Who programmed the pod could do more than this process.
			expect = contract.GuardTC
			drift = diffFilters(c.Interface, nil, have.egress)
		}
		if c.PacketGuard == contract.PacketGuardRequired {
			drift = append(drift, "packet guard: "+string(expect)+" is in force, and the whole one is required; this kernel lacks the "+EgressHook+guardCure)
		}
	}
	m, ok := p.mark(expect)
	protocol, err := family{name: "ipv4", af: unix.AF_INET}.protocolOf(p.link, m)
	switch {
	case errors.Is(err, unix.ESRCH) && ok:
		drift = append(drift, fmt.Sprintf("ipv4 route %q, which names the packet guard, is missing", routeText(p.link, m)))
	case errors.Is(err, unix.ESRCH):
	case err != nil:
		return nil, err
	case protocol != m.Protocol:
		drift = append(drift, fmt.Sprintf("ipv4 route %q names another packet guard than %s", routeText(p.link, m), expect))
	}
	return drift, nil
}

// Guard reads which packet guard is in force in the network namespace at path for
// an interface. It is contract.GuardNone also where nothing is programmed. Its error is
// a NoNetNS, or the kernel's. It needs CAP_NET_ADMIN, and CAP_SYS_ADMIN to enter a
// namespace that is not the process's own.
func Guard(path, ifname string) (contract.Guard, error) {
	p, err := open(path)
	if err != nil {
		return contract.GuardNone, err
	}
	defer p.close()
	whole := false
	err = dump(p.raw, nftables.TableFamilyNetdev, unix.NFT_MSG_GETCHAIN, unix.NFTA_CHAIN_TABLE, func(attrs map[uint16][]byte) {
		whole = whole || cString(attrs[unix.NFTA_CHAIN_NAME]) == "egress" && len(attrs[unix.NFTA_CHAIN_HOOK]) > 0
	})
	switch {
	case err != nil:
		return contract.GuardNone, wrap("read table netdev "+contract.Table, err)
	case whole:
		return contract.GuardNFT, nil
	}
	f, err := p.filters(ifname)
	if err == nil && slices.ContainsFunc(f.egress, filter.ours) {
		return contract.GuardTC, nil
	}
	return contract.GuardNone, err
}
