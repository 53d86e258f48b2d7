// Package redirect is the only package that changes a pod's kernel state: the
// nftables tables, the policy routing and the sysctls which send a pod's
// inbound TCP connections through its sidecar and let the sidecar reach the
// application from the client's own address. README.md beside it shows the
// rules and says why each is there.
package redirect

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// pod is an open network namespace with handles on it.
type pod struct {
	ns    ns.NetNS
	link  *netlink.Handle
	nft   *nftables.Conn
	lo    netlink.Link
	ipv6  bool // lo can have IPv6 routes
	ready bool // our table was there when the pod was opened
}

// open opens the namespace at path. Its errors are those of ns.GetNS where
// there is none.
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
		return nil, fmt.Errorf("open rtnetlink in %s: %w", path, err)
	}
	if p.nft, err = nftables.New(nftables.WithNetNSFd(int(p.ns.Fd())), nftables.AsLasting()); err != nil {
		return nil, fmt.Errorf("open nftables in %s: %w", path, err)
	}
	if p.lo, err = p.link.LinkByName("lo"); err != nil {
		return nil, fmt.Errorf("find lo in %s: %w", path, err)
	}
	if p.ipv6, err = hasIPv6(p.ns); err != nil {
		return nil, err
	}
	p.ready, err = p.hasTable(nftables.TableFamilyINet)
	return p, err
}

func (p *pod) close() {
	if p.nft != nil {
		_ = p.nft.CloseLasting()
	}
	if p.link != nil {
		p.link.Close()
	}
	_ = p.ns.Close()
}

func (p *pod) families() []family {
	all := families(p.lo.Attrs().Index)
	if !p.ipv6 {
		return all[:1]
	}
	return all
}

func (p *pod) hasTable(f nftables.TableFamily) (bool, error) {
	tables, err := p.nft.ListTablesOfFamily(f)
	if err != nil {
		return false, fmt.Errorf("list nftables tables: %w", err)
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == contract.Table }), nil
}

// own are the addresses of all interfaces except 127.0.0.0/8 and ::1.
func (p *pod) own() ([]netip.Addr, error) {
	list, err := p.link.AddrList(nil, unix.AF_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var own []netip.Addr
	for _, a := range list {
		addr, ok := netip.AddrFromSlice(a.IP)
		if addr = addr.Unmap(); ok && !addr.IsLoopback() && !slices.Contains(own, addr) {
			own = append(own, addr)
		}
	}
	slices.SortFunc(own, netip.Addr.Compare)
	return own, nil
}

// step is one change and how to take it back. Its error names it.
type step struct{ do, undo func() error }

// steps are in an order in which packets never see half of the state: nothing
// is intercepted or refused before the tables come, the guard comes with them,
// and only then can anyone use a foreign source (in IPv4; IPv6 needs the
// sysctl, which in a pod without running programs comes to the same). The local
// default of IPv4 comes last, when the rules already hide it.
func (p *pod) steps(c Config) ([]step, error) {
	own, err := p.own()
	if err != nil {
		return nil, err
	}
	before, err := readSysctls(p.ns)
	if err != nil {
		return nil, err
	}
	on := withValue(before, "1")

	fs := p.families()
	var steps []step
	if p.lo.Attrs().RawFlags&unix.IFF_UP == 0 {
		steps = append(steps, step{
			func() error { return wrap("set lo up", p.link.LinkSetUp(p.lo)) },
			func() error { return wrap("set lo down", p.link.LinkSetDown(p.lo)) },
		})
	}
	for _, f := range fs {
		steps = append(steps, step{
			func() error { return f.addRules(p.link) },
			func() error { return f.removeRules(p.link) },
		})
	}
	steps = append(steps,
		step{
			func() error { return wrap("program nftables", p.program(ruleset(c, own))) },
			func() error { return p.dropTables() },
		},
		step{
			func() error { return writeSysctls(p.ns, before, on) },
			func() error { return writeSysctls(p.ns, on, before) },
		},
	)
	if demuxErrs(c.Mode) {
		steps = append(steps, step{
			func() error { return setEarlyDemux(p.ns, "0") },
			func() error { return setEarlyDemux(p.ns, "1") },
		})
	}
	for _, f := range fs {
		steps = append(steps, step{
			func() error { return f.addRoute(p.link) },
			func() error { return f.removeRoute(p.link) },
		})
	}
	return steps, nil
}

// Apply programs c in the network namespace at path; twice is as once. If a
// step fails, the error names it, and what had been done is undone, unless the
// namespace had been programmed before: then the old state goes on working.
func Apply(path string, c Config) error {
	p, err := open(path)
	if err != nil {
		return err
	}
	defer p.close()
	if _, err := p.link.LinkByName(c.Interface); err != nil {
		return fmt.Errorf("find interface %q in %s: %w", c.Interface, path, err)
	}
	switch device, err := p.device(); {
	case err != nil:
		return err
	case device != "" && device != c.Interface:
		return fmt.Errorf("interface %s: this pod's connections are intercepted on %s already, and one interface is all that a pod can have: "+
			"take %s out of the other network's chain", c.Interface, device, contract.PluginType)
	}
	steps, err := p.steps(c)
	if err != nil {
		return err
	}
	for i, s := range steps {
		if err := s.do(); err != nil {
			if p.ready {
				return err
			}
			return errors.Join(err, undo(steps[:i+1]))
		}
	}
	return nil
}

// undo takes steps back, the last first; the failed one too, which may be half
// done.
func undo(steps []step) error {
	var errs []error
	for _, s := range slices.Backward(steps) {
		if err := s.undo(); err != nil {
			errs = append(errs, fmt.Errorf("undo: %w", err))
		}
	}
	return errors.Join(errs...)
}

// Remove takes out what Apply programmed for an interface: tables, rules and
// routes; the sysctls go back to the kernel's default. Twice is as once, and a
// namespace that is gone is no error. One that Apply never saw, or that it
// programmed for another interface, is left alone.
func Remove(path, ifname string) error {
	p, err := open(path)
	var gone ns.NSPathNotExistErr
	var notNS ns.NSPathNotNSErr
	if errors.As(err, &gone) || errors.As(err, &notNS) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.close()
	fs := p.families()
	switch ours, err := p.programmed(fs, ifname); {
	case err != nil:
		return err
	case !ours:
		return nil
	}

	var errs []error
	for _, f := range fs {
		errs = append(errs, f.removeRoute(p.link))
	}
	if p.ready {
		on, err := readSysctls(p.ns)
		if err == nil {
			err = writeSysctls(p.ns, on, withValue(on, "0"))
		}
		errs = append(errs, err)
		if demuxErrs(contract.ModeNAT) { // the mode is not known any more
			errs = append(errs, setEarlyDemux(p.ns, "1"))
		}
	}
	errs = append(errs, p.dropTables())
	for _, f := range fs {
		errs = append(errs, f.removeRules(p.link))
	}
	return errors.Join(errs...)
}

// programmed tells whether anything of an Apply for the interface is left.
func (p *pod) programmed(fs []family, ifname string) (bool, error) {
	device, err := p.device()
	if err != nil || device != "" && device != ifname {
		return false, err
	}
	if p.ready {
		return true, nil
	}
	for _, f := range fs {
		// The marked rules are the first to come and the last to go.
		if ours, err := f.hasAny(p.link); ours || err != nil {
			return ours, err
		}
	}
	return p.hasTable(nftables.TableFamilyNetdev)
}

// dropTables deletes both tables in one transaction.
func (p *pod) dropTables() error {
	return wrap("delete nftables tables", p.transact(func(conn *nftables.Conn) error {
		for _, f := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyNetdev} {
			t := &nftables.Table{Name: contract.Table, Family: f}
			conn.AddTable(t) // so that deleting it succeeds in any case
			conn.DelTable(t)
		}
		return nil
	}))
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
