package intercept

import (
	"github.com/google/nftables"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// follow finds the rules of the hooks' tables that take the packets. read reads a set;
// each is read once. It reports whether it has looked at all rules that a packet meets:
// it stops when nothing is left.
func follow(hooks []hooked, packets []probePacket, c Config, left budget, read func(tableID, string) *knownSet) (list []Other, all bool) {
	sets := map[tableID]map[string]*knownSet{}
	exempt := exemptPorts(c)
	for _, h := range hooks {
		seen := everyPort
		if h.nat && c.Mode == contract.ModeNAT && h.priority > int(*nftables.ChainPriorityNATDest) {
			seen = exempt // chain redirect_in has redirected all others, and the first to do so wins
		}
		table := tableID{h.family, h.table}
		way := &walk{chains: h.rules, left: &left}
		for _, packet := range packets {
			if h.family != nftables.TableFamilyINet && h.family != packet.family {
				continue
			}
			packet.set = func(name string) *knownSet {
				s, known := sets[table][name]
				if !known && left.spend(costOfRead) {
					s = read(table, name)
					if sets[table] == nil {
						sets[table] = map[string]*knownSet{}
					}
					sets[table][name] = s
					left.spend(s.size() / elementsPerStep)
				}
				return s
			}
			way.see = func(rule []byte) seenRule { return h.see(packet, rule) }
			way.through(h.chain, seen)
		}
		list = append(list, way.others(h, exempt)...)
		if left < 0 || len(list) > mostOthers {
			return list[:min(len(list), mostOthers)], false
		}
	}
	return list, true
}

// others are the rules that were found in a base chain, without those that take exempt
// connections and leave them exempt.
func (w *walk) others(h hooked, exempt portSet) (list []Other) {
	for _, t := range w.found {
		if t.ports.less(exempt).empty() && exempt.has(t.port) {
			continue
		}
		list = append(list, Other{
			Family: familyNames[h.family], Table: h.table, Legacy: h.legacy, Chain: h.chain, Priority: h.priority,
			In: t.chain, Rule: t.rule, Ports: t.ports.String(), Verb: t.verb, Port: t.port,
		})
	}
	return list
}

// exemptPorts are those that chain exempt exempts.
func exemptPorts(c Config) portSet {
	of := func(list []PortRange) (s portSet) {
		for _, r := range list {
			s.add(r.Low, r.High)
		}
		return s
	}
	exempt := of(c.ExcludePorts).or(portRange(c.AdminPort, c.AdminPort))
	if len(c.IncludePorts) > 0 {
		exempt = exempt.or(everyPort.less(of(c.IncludePorts)))
	}
	return exempt
}
