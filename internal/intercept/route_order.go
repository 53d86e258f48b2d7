package intercept

import (
	"errors"
	"fmt"
	"math"
	"slices"

	mnl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// placeRules puts f's rules where they belong. At no moment does a packet find neither
// the old state nor the new one: all is added before anything is deleted. The routes
// of table 29808 have to be there.
func (f family) placeRules(p *pod) error { return f.settle(p, f.planPlace, mostMoved) }

// removeRules is placeRules undone, and what an earlier version did.
func (f family) removeRules(p *pod) error { return f.settle(p, f.planRemove, math.MaxInt) }

// mostMoved bounds how many rules of other software are moved behind the plugin's: a
// thousand take a second, and a pod that adds as many all the time would keep the
// installer from the others. A DEL, which nobody else waits for, moves any number.
const mostMoved = 500

// settle does what plan says until that is nothing, unless it is to move more than most.
func (f family) settle(p *pod, plan func(have []ipRule) (add, del []ipRule), most int) error {
	for range mostTries {
		have, err := f.listRules(p)
		if err != nil {
			return err
		}
		add, del := plan(have)
		if len(add)+len(del) == 0 {
			return nil
		}
		if n := len(add) - len(f.rules); n > most {
			return fmt.Errorf("%s rules: %d of other software have priority 0 and are not behind the plugin's, the last one %q; "+
				"at most %d are moved: give them another priority (ip rule add pref 100 ...)", f.name, n, add[len(add)-1], most)
		}
		for _, r := range add {
			if err := p.changeRule(unix.RTM_NEWRULE, mnl.Create, r); err != nil {
				return fmt.Errorf("add %s rule %q: %w", f.name, r, err)
			}
		}
		for _, r := range del {
			if err := p.changeRule(unix.RTM_DELRULE, 0, r); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("delete %s rule %q: %w", f.name, r, err)
			}
		}
	}
	return fmt.Errorf("%s rules: other software changes them all the time", f.name)
}

// planPlace says what makes the rules of the pod those of f: with the kernel's for table
// local gone where f hides that, no other one for our mark, and ahead of all others but
// the kernel's, which is first where f does not hide it.
func (f family) planPlace(have []ipRule) (add, del []ipRule) {
	first := f.first(have)
	return f.plan(have, first, func(r ipRule) bool {
		return f.ours(r) || r.local() && (f.hidesLocal() || r.priority == 0 && len(first) > len(f.rules))
	})
}

// first are f's rules, and before them that for table local where f needs it and it does
// not lead: behind a rule for the sidecar's uid what that sends to the pod itself would
// leave the pod.
func (f family) first(have []ipRule) []ipRule {
	if f.hidesLocal() || len(have) > 0 && have[0].local() && have[0].priority == 0 {
		return f.rules
	}
	return append([]ipRule{kernelRule(uint8(f.af))}, f.rules...)
}

// planRemove says what makes the rules those of a pod without f.
func (f family) planRemove(have []ipRule) (add, del []ipRule) {
	var first []ipRule
	if f.hidesLocal() {
		first = []ipRule{kernelRule(uint8(f.af))}
	}
	return f.plan(have, first, func(r ipRule) bool { return f.ours(r) || f.hidesLocal() && r.local() && r.priority == 0 })
}

// plan says what brings first to the head of the rules and takes out those for which
// gone is true. Rules of priority 0 have the order in which they came, so the rest of
// these goes and comes anew, in its order. The kernel's rule for table local is left at
// the head.
//
// A request to delete a rule takes the first that has what the request names, though it
// may have more: "0: lookup local" can mean "0: lookup local suppress_prefixlength 0".
// So those of priority 0 are deleted from the head on, where each is the first. But two
// never stay behind the look-ups that go before them: "unreachable", and the rule for the
// sidecar's uid.
func (f family) plan(have, first []ipRule, gone func(ipRule) bool) (add, del []ipRule) {
	old, others, late := []ipRule{}, []ipRule{}, []ipRule{}
	leads := true
	for _, r := range have {
		switch {
		case r.priority > 0:
			if gone(r) {
				late = append(late, r)
			}
			continue
		case leads && r.local() && !gone(r):
			continue
		}
		leads = false
		if old = append(old, r); !gone(r) {
			others = append(others, r)
		}
	}
	add, del = slices.Concat(first, others), old
	if n := len(old); n <= len(add) && slices.EqualFunc(old, add[:n], ipRule.same) {
		add, del = add[n:], nil
	}
	del = append(del, late...)
	slices.SortStableFunc(del, func(a, b ipRule) int { return turn(a) - turn(b) })
	return add, del
}

// turn is 0 for rules of ours that are deleted before all others.
func turn(r ipRule) int {
	if r.forMark() && r.action == unix.FR_ACT_UNREACHABLE || r.forAnswers() {
		return 0
	}
	return 1
}

// ours reports whether r is a rule of the plugin's, of this version or an earlier one,
// or another one for our mark that goes first.
func (f family) ours(r ipRule) bool {
	return r.forMark() && r.priority <= earlierMarkedPriority || r.forAnswers() || slices.ContainsFunc(f.rules, r.same) ||
		f.hidesLocal() && r.same(localRule(uint8(f.af), earlierLocalPriority, 0))
}

// hasRules reports whether one of the plugin's rules is there.
func (f family) hasRules(p *pod) (bool, error) {
	have, err := f.listRules(p)
	return slices.ContainsFunc(have, f.ours), err
}

// checkRules names what is missing of f, and what is there in spite of it.
func (f family) checkRules(p *pod) (diffs []string, err error) {
	have, err := f.listRules(p)
	if err != nil {
		return nil, err
	}
	for _, r := range f.first(have) {
		if !slices.ContainsFunc(have, r.same) {
			diffs = append(diffs, fmt.Sprintf("%s rule %q is missing", f.name, r))
		}
	}
	for _, r := range have {
		if f.ours(r) && !slices.ContainsFunc(f.rules, r.same) {
			diffs = append(diffs, fmt.Sprintf("%s rule %q is unexpected", f.name, r))
		}
	}
	for _, r := range have {
		if f.hidesLocal() && r.local() {
			diffs = append(diffs, fmt.Sprintf("%s rule %q is there and shows every address as local", f.name, r))
			break
		}
	}
	if add, del := f.planPlace(have); len(diffs) == 0 && len(add)+len(del) > 0 {
		diffs = append(diffs, fmt.Sprintf("%s rules of priority 0 are in another order", f.name))
	}
	return diffs, nil
}

// listRules are all of the family that this process can change, in the kernel's order.
func (f family) listRules(p *pod) (list []ipRule, err error) {
	conn, err := p.rtnetlink()
	if err != nil {
		return nil, err
	}
	request := make([]byte, ruleHeader)
	request[0] = byte(f.af)
	replies, err := dumpWhole(conn, unix.RTM_GETRULE, request)
	for _, m := range replies {
		var r ipRule
		if r, err = parseRule(m.Data); err != nil {
			break
		}
		if r.users == nil || p.canName(*r.users) {
			list = append(list, r)
		}
	}
	return list, wrap("list "+f.name+" rules", err)
}

// changeRule adds or deletes a rule. An equal one that is there is no error.
func (p *pod) changeRule(message mnl.HeaderType, flags mnl.HeaderFlags, r ipRule) error {
	conn, err := p.rtnetlink()
	if err == nil {
		_, err = conn.Execute(mnl.Message{
			Header: mnl.Header{Type: message, Flags: mnl.Request | mnl.Acknowledge | flags}, Data: r.message,
		})
	}
	return err
}
