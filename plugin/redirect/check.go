package redirect

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// Drift says how a pod's kernel state differs from what Apply programs, one
// sentence a difference.
type Drift []string

func (d Drift) Error() string { return strings.Join(d, "; ") }

// Check compares the namespace at path with what Apply would program for c and
// returns a Drift that names every difference, or nil. Tables, rules and
// routes of others are none. required are addresses that the tables must know
// as the pod's own, such as those of prevResult.
//
// What Apply would program is asked of the kernel itself: Check applies c in a
// scratch namespace and compares what it reads back from both.
func Check(path string, c Config, required []netip.Addr) error {
	p, err := open(path)
	if err != nil {
		return err
	}
	defer p.close()

	var want map[string]tableState
	err = scratch(c.Interface, func(path string) error {
		if err := Apply(path, c); err != nil {
			return err
		}
		s, err := open(path)
		if err != nil {
			return err
		}
		defer s.close()
		want, err = s.readTables()
		return err
	})
	if err != nil {
		return fmt.Errorf("program a scratch namespace to compare with: %w", err)
	}
	have, err := p.readTables()
	if err != nil {
		return err
	}
	drift := diffTables(want, have)
	own, err := p.checkOwn(required)
	if err != nil {
		return err
	}
	drift = append(drift, own...)
	for _, f := range p.families() {
		diffs, err := f.check(p.link)
		if err != nil {
			return err
		}
		drift = append(drift, diffs...)
	}
	values, err := readSysctls(p.ns)
	if err != nil {
		return err
	}
	for _, s := range values {
		if s.value != "1" {
			drift = append(drift, fmt.Sprintf("sysctl %s is %s, not 1", strings.ReplaceAll(s.key, "/", "."), s.value))
		}
	}
	if demuxErrs(c.Mode) {
		value, err := readEarlyDemux(p.ns)
		if err != nil {
			return err
		}
		if value != "0" {
			drift = append(drift, fmt.Sprintf("sysctl %s is %s, not 0", strings.ReplaceAll(earlyDemux, "/", "."), value))
		}
	}
	if p.lo.Attrs().RawFlags&unix.IFF_UP == 0 {
		drift = append(drift, "interface lo is down")
	}
	if len(drift) == 0 {
		return nil
	}
	return drift
}

// checkOwn looks at the sets that hold the pod's addresses: an element that no
// interface has lets somebody spoof, a required one that is absent is refused.
// Addresses that came after ADD need not be there: the rules know them anyway.
func (p *pod) checkOwn(required []netip.Addr) (drift Drift, err error) {
	own, err := p.own()
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
	s, err := p.nft.GetSetByName(&nftables.Table{Name: contract.Table, Family: family}, name)
	if err != nil {
		return nil, err
	}
	elements, err := p.nft.GetSetElements(s)
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

// diffTables names what differs between the tables as wanted and as they are.
func diffTables(want, have map[string]tableState) (drift Drift) {
	for _, f := range tableFamilies {
		w := want[f.name]
		h, ok := have[f.name]
		if !ok {
			drift = append(drift, fmt.Sprintf("table %s is missing", f.name))
			continue
		}
		in := " of table " + f.name
		for _, name := range w.setNames() {
			switch s, ok := h.sets[name]; {
			case !ok:
				drift = append(drift, "set "+name+in+" is missing")
			case s != w.sets[name]:
				drift = append(drift, "set "+name+in+" has other elements")
			}
		}
		for _, name := range w.chainNames() {
			c, ok := h.chains[name]
			if !ok {
				drift = append(drift, "chain "+name+in+" is missing")
				continue
			}
			if c.hook != w.chains[name].hook {
				drift = append(drift, "chain "+name+in+" has another type, hook, priority, device or policy")
			}
			drift = append(drift, diffRules(name+in, w.chains[name].rules, c.rules)...)
		}
		for _, name := range h.chainNames() {
			if _, ok := w.chains[name]; !ok {
				drift = append(drift, "chain "+name+in+" is not ours")
			}
		}
	}
	return drift
}

// diffRules names the rules to add and to delete so that have becomes want:
// those that are in no longest common subsequence.
func diffRules(chain string, want, have []string) (drift Drift) {
	// common[i][j] is its length for want[i:] and have[j:].
	common := make([][]int, len(want)+1)
	for i := range common {
		common[i] = make([]int, len(have)+1)
	}
	for i := len(want) - 1; i >= 0; i-- {
		for j := len(have) - 1; j >= 0; j-- {
			if want[i] == have[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	i, j := 0, 0
	for i < len(want) || j < len(have) {
		switch {
		case i < len(want) && j < len(have) && want[i] == have[j]:
			i, j = i+1, j+1
		case j == len(have) || i < len(want) && common[i+1][j] >= common[i][j+1]:
			i++
			drift = append(drift, fmt.Sprintf("rule %d of chain %s is missing", i, chain))
		default:
			j++
			drift = append(drift, fmt.Sprintf("rule %d of chain %s is not ours", j, chain))
		}
	}
	return drift
}
