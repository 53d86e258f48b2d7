package intercept

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// diffTables names what differs between the tables as wanted and as they are.
func diffTables(want, have map[string]tableState) (drift []string) {
	for _, f := range tableFamilies {
		w := want[f.name]
		h, ok := have[f.name]
		if !ok {
			drift = append(drift, fmt.Sprintf("table %s is missing", f.name))
			continue
		}
		if h.dormant && !w.dormant {
			drift = append(drift, fmt.Sprintf("table %s is dormant", f.name))
		}
		in := " of table " + f.name
		uncounted := slices.DeleteFunc(w.counterNames(), func(name string) bool { _, ok := h.counters[name]; return ok })
		if len(uncounted) > 0 {
			drift = append(drift, "table "+f.name+" lacks counter "+strings.Join(uncounted, ", "))
		}
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
			drift = append(drift, diffRules(name, in, w.chains[name].rules, c.rules)...)
			if len(uncounted) == 0 {
				drift = append(drift, diffCounting(name, w.chains[name].rules, c.rules)...)
			}
		}
		for _, name := range h.chainNames() {
			if _, ok := w.chains[name]; !ok {
				drift = append(drift, "chain "+printable.Word(name)+in+" is unexpected")
			}
		}
	}
	return drift
}

// diffRules names the rules to add and to delete so that have becomes want:
// those that are in no longest common subsequence. Comments do not count: CRI-O
// runs CHECK for each pod when it starts again, and a pod that works as it should
// must not fail there because a version later puts a rule in other words.
func diffRules(chain, in string, want, have []ruleState) (drift []string) {
	// common[i][j] is its length for want[i:] and have[j:].
	common := make([][]int, len(want)+1)
	for i := range common {
		common[i] = make([]int, len(have)+1)
	}
	for i := len(want) - 1; i >= 0; i-- {
		for j := len(have) - 1; j >= 0; j-- {
			if want[i].expr == have[j].expr {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	i, j := 0, 0
	for i < len(want) || j < len(have) {
		switch {
		case i < len(want) && j < len(have) && want[i].expr == have[j].expr:
			i, j = i+1, j+1
		case j == len(have) || i < len(want) && common[i+1][j] >= common[i][j+1]:
			drift = append(drift, fmt.Sprintf("the rule of chain %s that %s is missing", chain, want[i].comment))
			i++
		default:
			text := fmt.Sprintf("rule %d of chain %s%s is unexpected", j+1, chain, in)
			if c := have[j].comment; c != "" {
				text += " (its comment: " + printable.Quote(c) + ")"
			}
			drift = append(drift, text)
			j++
		}
	}
	return drift
}

// diffCounting names the rules that do what they should, but do not count it as they
// should.
func diffCounting(chain string, want, have []ruleState) (drift []string) {
	for _, w := range want {
		same := func(h ruleState) bool { return h.expr == w.expr }
		if slices.ContainsFunc(have, same) && !slices.ContainsFunc(have, func(h ruleState) bool { return same(h) && h.counter == w.counter }) {
			drift = append(drift, fmt.Sprintf("the rule of chain %s that %s has another counter, or none", chain, w.comment))
		}
	}
	return drift
}
