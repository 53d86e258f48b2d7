// Package intercept is the only package that changes a pod's kernel state: the
// nftables tables, the policy routing and the sysctls which send a pod's
// inbound TCP connections through its sidecar and let the sidecar reach the
// application from the client's own address. README.md beside it shows the
// rules and gives the reason for each.
//
//	intercept.go                     Apply and Remove, as steps that can be undone
//	check.go, diff.go, readback.go   Check; dump.go reads from the kernel
//	counters.go                      what the rules have counted
//	others.go                        Others; others_walk.go follows a connection through rules that
//	                                 others_nft.go and others_legacy.go read
//	preflight.go, probe.go           what a kernel lacks
//	in_force.go, stamp.go            the settings that are in force, and which version they are of
//	ruleset.go and what it names     the nftables rules; nft.go has the words that they are made of
//	program.go, transaction.go       from the rules to the kernel
//	route.go                         policy routing; route_rule.go, route_order.go have the rules,
//	                                 route_sync.go the routes
//	sysctl.go                        sysctls
//	netns.go, pod.go, scratch.go     network namespaces
//	packet_guard.go, tc.go           the packet guard of kernels without the hook for the whole one
//	config.go                        what can be asked for
package intercept

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// Apply programs c in the network namespace at path. It is idempotent, and
// replaces what an earlier version or other settings have programmed.
//
// Its error is one of these: the faults of c, a line each, before anything is
// looked at; a NoNetNS; an interface that is missing, or another one that is
// intercepted already; or the kernel's error, with the step that it refused. If a
// step fails, those before it are undone, unless the namespace had been programmed
// before: then the old state stays in force if the kernel refused the tables.
//
// It needs CAP_NET_ADMIN, and CAP_SYS_ADMIN to enter a namespace that is not the
// process's own. In its own one /proc/sys may be read-only if the sysctls are
// right already.
func Apply(path string, c Config) error {
	_, err := ApplyGuarded(path, c)
	return err
}

// ApplyGuarded is Apply, and says which packet guard is in force then. Its error may
// also be a NoGuard, which comes of c.PacketGuard.
func ApplyGuarded(path string, c Config) (g Guarded, err error) {
	if err := c.validate(); err != nil {
		return g, err
	}
	p, err := open(path)
	if err != nil {
		return g, err
	}
	defer p.close()
	link, err := p.link.LinkByName(c.Interface)
	if err != nil {
		return g, fmt.Errorf("find interface %q in %s: %w", c.Interface, printable.Word(path), err)
	}
	switch device, err := p.device(); {
	case err != nil:
		return g, err
	case device != "" && device != c.Interface:
		return g, fmt.Errorf("interface %s: this pod's connections are intercepted on %s already, and a pod can have only one such interface: "+
			"take %s out of the other network's chain", printable.Word(c.Interface), printable.Word(device), contract.PluginType)
	}
	steps, err := p.steps(c, link, &g)
	if err != nil {
		return g, err
	}
	for i, s := range steps {
		if err := s.do(); err != nil {
			if p.ready {
				return g, err
			}
			return g, errors.Join(err, undo(steps[:i+1]))
		}
	}
	return g, nil
}

// steps program c, on the interface link, and find out the packet guard. They are in an
// order in which packets never see half of the state: table 29808 is there before a rule
// asks it, nothing is intercepted or refused before the tables come, the guard comes with
// them, and only then can a process use a foreign source (in IPv4; IPv6 needs the sysctl,
// which in a pod without running programs comes to the same). The local default of IPv4
// comes last, when the rules already hide it.
//
// In a pod that is programmed already the tables come first: they are what a kernel may
// refuse, all or nothing, and then the old routes and rules stay with the old tables.
func (p *pod) steps(c Config, link netlink.Link, g *Guarded) ([]step, error) {
	own, err := p.addresses()
	if err != nil {
		return nil, err
	}

	fs := p.families(link, c.Mode, c.ProxyUID)
	var steps []step
	if p.lo.Attrs().RawFlags&unix.IFF_UP == 0 {
		steps = append(steps, step{
			func() error { return wrap("set lo up", p.link.LinkSetUp(p.lo)) },
			func() error { return wrap("set lo down", p.link.LinkSetDown(p.lo)) },
		})
	}
	steps = append(steps, step{
		func() error { return p.joinGroup(link) },
		func() error { return p.leaveGroup(c.Interface) },
	})
	routes := func(f family, list []netlink.Route) step {
		return step{
			func() error { return f.addRoutes(p.link, list) },
			func() error { return f.removeRoutes(p.link, list) },
		}
	}
	var routing []step
	for _, f := range fs {
		routing = append(routing, routes(f, f.routes), step{
			func() error { return f.placeRules(p) },
			func() error { return f.removeRules(p) },
		})
	}
	tables := []step{
		{
			func() (err error) {
				*g, err = p.programGuarded(c, own)
				return wrap("program nftables", err)
			},
			func() error { return p.dropTables() },
		},
		p.guardStep(c.Interface, g),
	}
	if p.ready {
		steps = slices.Concat(steps, tables, routing)
	} else {
		steps = slices.Concat(steps, routing, tables)
	}
	steps = append(steps, sysctlStep(p.ns, c.Mode))
	for _, f := range fs {
		steps = append(steps, routes(f, f.exposed))
	}
	steps = append(steps, p.markStep(g))
	return steps, nil
}

// Remove takes out what Apply programmed for an interface: tables, rules and
// routes; the sysctls go back to the kernel's default. It is idempotent. A
// namespace that is gone is not an error; one that Apply never programmed, or
// programmed for another interface, is left alone.
//
// If a step fails, it goes on with the others; the error joins what failed. It
// needs the privileges of Apply.
func Remove(path, ifname string) error {
	p, err := open(path)
	var none NoNetNS
	if errors.As(err, &none) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.close()
	fs := p.familiesOf(ifname, "", 0)
	switch found, err := p.programmed(fs, ifname); {
	case err != nil:
		return err
	case !found:
		return nil
	}

	var errs []error
	for _, f := range fs {
		errs = append(errs, f.removeRoutes(p.link, f.exposed), f.removeRoutes(p.link, f.routes))
	}
	if p.ready {
		errs = append(errs, resetSysctls(p.ns)) // the mode is not known any more
	}
	errs = append(errs, p.unguardTC(ifname), p.removeMark(), p.dropTables())
	for _, f := range fs {
		errs = append(errs, f.removeRules(p))
	}
	errs = append(errs, p.leaveGroup(ifname))
	return errors.Join(errs...)
}

// Programmed reports whether anything is left at path of an Apply for an interface
// of that name. Its error is a NoNetNS, or the kernel's. It needs the privileges of
// Apply, and changes nothing.
func Programmed(path, ifname string) (bool, error) {
	p, err := open(path)
	if err != nil {
		return false, err
	}
	defer p.close()
	return p.programmed(p.familiesOf(ifname, "", 0), ifname)
}

// programmed reports whether anything of an Apply for the interface is left.
func (p *pod) programmed(fs []family, ifname string) (bool, error) {
	device, err := p.device()
	if err != nil || device != "" && device != ifname {
		return false, err
	}
	if p.ready {
		return true, nil
	}
	// What an ADD or DEL leaves that was killed: the group and the routes come before the
	// rules and the tables, and the group is the last to go.
	if p.inGroup(ifname) {
		return true, nil
	}
	for _, f := range fs {
		if found, err := f.hasRoutes(p.link); found || err != nil {
			return found, err
		}
		if found, err := f.hasRules(p); found || err != nil {
			return found, err
		}
	}
	return p.hasTable(nftables.TableFamilyNetdev)
}
