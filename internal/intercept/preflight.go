package intercept

import (
	"errors"
	"os"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// Preflight tries mode in a scratch namespace and names what this kernel lacks
// for it; nothing, if it can do all. guard is the packet guard that it can have: whether
// that is enough is for who asks. After an error nothing is known: mode is
// not one, or the kernel refused the scratch namespace. It needs CAP_SYS_ADMIN
// and CAP_NET_ADMIN; those of a new user namespace will do.
//
// It programs everything but the sysctls: where /proc/sys is read-only, as in
// most containers, that they exist is enough. Nor does it try a rule for the sidecar's uid in
// a user namespace that lacks that: a kernel that has policy routing takes one (Linux 4.10).
func Preflight(mode contract.Mode) (missing []string, guard Guarded, err error) {
	c := Default(mode)
	if err := c.validate(); err != nil {
		return nil, guard, err
	}
	err = scratch(c.Interface, func(path string) error {
		p, err := open(path)
		if err != nil {
			return err
		}
		defer p.close()
		if err := p.link.LinkSetUp(p.lo); err != nil {
			return wrap("set lo up", err)
		}
		if p.ipv6, err = hasIPv6(p.ns, "lo"); err != nil {
			return err
		}
		for _, f := range p.familiesOf(c.Interface, mode, c.ProxyUID) {
			err := f.addRoutes(p.link, f.routes)
			if err == nil {
				err = f.placeRules(p)
			}
			if err == nil {
				err = f.addRoutes(p.link, f.exposed)
			}
			if err != nil {
				missing = append(missing, "policy routing ("+err.Error()+")")
			}
		}
		nft, err := p.library()
		if err != nil {
			return err
		}
		tables := func() []table { return ruleset(c, nil) }
		guard.Guard = contract.GuardNFT
		if errors.Is(p.tryEgress(c.Interface), unix.EOPNOTSUPP) {
			tables = func() []table { return withoutEgress(ruleset(c, nil)) }
			guard = p.preflightTC(c.Interface)
		}
		missing = append(missing, probe(nft, tables())...)
		absent, err := absentSysctls(p.ns)
		missing = append(missing, absent...)
		if err != nil || len(missing) > 0 {
			return err
		}
		// The parts work; does the whole?
		if err := p.program(tables()); err != nil {
			missing = append(missing, "the ruleset as a whole ("+err.Error()+")")
		}
		return nil
	})
	return missing, guard, err
}

// preflightTC is the guard without chain egress.
func (p *pod) preflightTC(ifname string) Guarded {
	err := p.guardByTC(ifname)
	if err == nil {
		return Guarded{Guard: contract.GuardTC}
	}
	why := err.Error()
	if errors.Is(err, unix.EPERM) {
		why += ": not tried without CAP_BPF or CAP_SYS_ADMIN of the node, which the plugin has"
	}
	return Guarded{contract.GuardNone, why}
}

// WrongSysctls names, as sysctl(8) does, the settings that interception cannot
// do without and that are not 1 in the network namespace at path, without those
// of a kernel without IPv6. Its error is a NoNetNS, or the kernel's. It needs
// CAP_SYS_ADMIN to enter a namespace that is not the caller's, and nothing else.
func WrongSysctls(path string) (wrong []string, err error) {
	pod, err := getNS(path)
	if err != nil {
		return nil, err
	}
	defer pod.Close()
	have, err := readSysctls(pod, sysctls)
	for i, v := range have {
		if s := sysctls[i]; !s.optional && v != "" && v != s.on {
			wrong = append(wrong, s.name())
		}
	}
	return wrong, err
}

func absentSysctls(pod ns.NetNS) (absent []string, err error) {
	err = pod.Do(func(ns.NetNS) error {
		for _, s := range sysctls {
			_, err := os.Stat(sysctlDir + s.key)
			if errors.Is(err, os.ErrNotExist) {
				if !s.optional {
					absent = append(absent, "sysctl "+s.name())
				}
			} else if err != nil {
				return err
			}
		}
		return nil
	})
	return absent, err
}
