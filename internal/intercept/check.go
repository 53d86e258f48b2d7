package intercept

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// Drift is how a pod's kernel state differs from what Apply programs, one
// sentence for each difference: "the rule of chain spoofed that lets uid 7089
// open the spoofed leg is missing". The first says so if another version of the plugin
// has programmed the pod: "v0.1.0 of the plugin has programmed this pod, and this is v0.2.0".
type Drift []string

func (d Drift) Error() string { return strings.Join(d, "; ") }

// Taken is that other software takes connections in a pod that is as Apply programs it:
// another Apply is no cure.
type Taken []Other

func (t Taken) Error() string {
	var list []string
	for _, o := range t {
		list = append(list, o.String())
	}
	return strings.Join(list, "; ") + ": " + OthersMean
}

// Check compares the namespace at path with what Apply would program for c.
// Tables, rules and routes of other software are not compared. required are
// addresses that the tables must know as the pod's own, such as those of
// prevResult.
//
// It returns nil if nothing differs, and a Drift that names every difference, and
// Others, if something does. If all is as Apply programs it and there are Others, it is
// Taken; that Others could not follow all rules is no fault of the pod's. Any other error
// means that it could not compare: the faults of c, a line each; a NoNetNS; or the kernel's
// error, with what failed.
//
// The kernel itself says what Apply would program: Check applies c in a scratch
// namespace and compares what it reads back from both. It changes nothing at
// path. It needs CAP_NET_ADMIN and, for the scratch namespace, CAP_SYS_ADMIN.
func Check(path string, c Config, required []netip.Addr) error {
	return new(Checker).Check(path, c, required)
}

// Check is the function Check.
func (k *Checker) Check(path string, c Config, required []netip.Addr) error {
	return k.CheckAgain(context.Background(), path, c, required, &Seen{})
}

// CheckAgain is Check for a namespace that is looked at time and again, each time
// with the same c and required, and with seen, which begins as the zero value. It
// costs a quarter of Check while nothing changes the namespace's nftables. Its error is
// ctx's if that ends first, however much of nftables, rules or filters the kernel has to
// list.
func (k *Checker) CheckAgain(ctx context.Context, path string, c Config, required []netip.Addr, seen *Seen) error {
	if err := c.validate(); err != nil {
		return err
	}
	p, err := open(path)
	if err != nil {
		return err
	}
	defer p.close()
	if _, err := p.rtnetlink(); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, p.interrupt)()
	err = k.compare(p, c, required, seen)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// compare is CheckAgain in an open namespace.
func (k *Checker) compare(p *pod, c Config, required []netip.Addr, seen *Seen) error {
	var drift Drift
	var others Taken
	want, err := k.wanted(c)
	if err != nil {
		return err
	}
	now, err := p.generation(c.Interface)
	if err != nil {
		return err
	}
	if !seen.same(now) {
		if drift, err = confirmed(func() (Drift, error) { return p.checkTables(want, required) }); err != nil {
			return err
		}
		if others, err = p.others(c); err != nil && !errors.Is(err, errTooMany) {
			return err
		}
		*seen = Seen{now, len(drift) == 0 && len(others) == 0, 0}
	}
	guard, err := p.checkGuard(c, want)
	if err != nil {
		return err
	}
	drift = append(drift, guard...)
	for _, f := range p.familiesOf(c.Interface, c.Mode, c.ProxyUID) {
		rules, err := f.checkRules(p)
		if err != nil {
			return err
		}
		routes, err := f.checkRoutes(p.link)
		if err != nil {
			return err
		}
		drift = append(append(drift, rules...), routes...)
	}
	drift = append(drift, p.checkGroup(c.Interface)...)
	values, err := checkSysctls(p.ns, c.Mode)
	if err != nil {
		return err
	}
	drift = append(drift, values...)
	if p.lo.Attrs().RawFlags&unix.IFF_UP == 0 {
		drift = append(drift, "interface lo is down")
	}
	if len(drift) > 0 {
		other, err := p.otherVersion()
		if err != nil {
			return err
		}
		if other != "" {
			drift = append(Drift{other}, drift...)
		}
	}
	switch {
	case len(drift) == 0 && len(others) == 0:
		return nil
	case len(drift) == 0:
		return others
	case len(others) > 0:
		drift = append(drift, others.Error())
	}
	return drift
}

// confirmed is what two readings in a row say, or the last of mostTries. While the kernel
// commits a transaction it has counted already, it may list some rules twice and others
// not at all, and does not say that something changed meanwhile.
func confirmed(read func() (Drift, error)) (drift Drift, err error) {
	for range mostTries {
		before := drift
		if drift, err = read(); err != nil || len(drift) == 0 || slices.Equal(before, drift) {
			return drift, err
		}
	}
	return drift, nil
}

// checkTables is the part of Check that reads nftables.
func (p *pod) checkTables(want wanted, required []netip.Addr) (Drift, error) {
	have, err := p.readTables()
	if err != nil {
		return nil, err
	}
	drift := Drift(diffTables(want.tables, have))
	own, err := p.checkOwn(required)
	if err != nil {
		return nil, err
	}
	return append(drift, own...), nil
}

// checkOwn looks at the sets that hold the pod's addresses: an element that no
// interface has can be spoofed, and a required address that is absent is dropped.
// Addresses that came after ADD need not be there; other rules let them pass.
func (p *pod) checkOwn(required []netip.Addr) (drift Drift, err error) {
	own, err := p.addresses()
	if err != nil {
		return nil, err
	}
	for _, f := range tableFamilies {
		for _, name := range addressSets {
			known, err := p.setAddrs(f.id, name)
			if errors.Is(err, unix.ENOENT) {
				continue // diffTables has said so
			}
			if err != nil {
				return nil, fmt.Errorf("read set %s of table %s: %w", name, f.name, err)
			}
			for _, a := range known {
				if !slices.Contains(own, a) {
					drift = append(drift, fmt.Sprintf("set %s of table %s holds %v, which no interface has", name, f.name, a))
				}
			}
			for _, a := range required {
				if ownSet(a) == name && !slices.Contains(known, a) {
					drift = append(drift, fmt.Sprintf("set %s of table %s lacks %v", name, f.name, a))
				}
			}
		}
	}
	return drift, nil
}

func (p *pod) setAddrs(family nftables.TableFamily, name string) (list []netip.Addr, err error) {
	nft, err := p.library()
	if err != nil {
		return nil, err
	}
	s, err := nft.GetSetByName(&nftables.Table{Name: contract.Table, Family: family}, name)
	if err != nil {
		return nil, err
	}
	elements, err := nft.GetSetElements(s)
	for _, e := range elements {
		a, _ := netip.AddrFromSlice(e.Key)
		list = append(list, a)
	}
	return list, err
}

func ownSet(a netip.Addr) string {
	if a.Is4() {
		return ownSets[0]
	}
	return ownSets[1]
}
