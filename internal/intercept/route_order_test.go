package intercept

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestRuleOrder: whatever rules are there, ours come first and the others keep their
// order, and IPv6's for table local before them; Remove leaves the kernel's once, at the
// head.
func TestRuleOrder(t *testing.T) {
	const local = "0: from all lookup local"
	marked := []string{"0: from all fwmark 0x1000/0x1000 lookup 29808", "0: from all fwmark 0x1000/0x1000 unreachable"}
	const answers = "0: from all uidrange 7089-7089 lookup main suppress_ifgroup default"
	for _, f := range []struct {
		option, pod string
		ours        []string
		hides       bool
	}{
		{"-4", "10.1.0.2", append(marked[:2:2], "0: from all lookup local suppress_prefixlength 0", answers), true},
		{"-6", "fd00:1::2", append([]string{local}, append(marked[:2:2], answers)...), false},
	} {
		foreign := []string{
			"0: not from all fwmark 0xca6c lookup 51820", "0: from " + f.pod + " ipproto udp dport 53 lookup 100",
			"0: from all iif nothing [detached] lookup local", "0: from all uidrange 5-6 lookup main suppress_ifgroup default",
		}
		add := []string{
			"not fwmark 51820 table 51820", "from " + f.pod + " ipproto udp dport 53 table 100",
			"iif nothing table local", "uidrange 5-6 table main suppress_ifgroup default",
		}
		earlier := []string{"add pref 1 fwmark 0x1000/0x1000 table 29808", "add pref 1 fwmark 0x1000/0x1000 unreachable"}
		elsewhere, moved := []string{"9: from all lookup local"}, []string{"add pref 9 table local", "del pref 0 table local"}
		if f.hides {
			earlier = append(earlier, "add pref 2 table local suppress_prefixlength 0", "del pref 0 table local")
			elsewhere = nil // and gone already when ours are there
		}
		var zeros []string
		for _, r := range add {
			zeros = append(zeros, "add pref 0 "+r)
		}
		for _, tt := range []struct {
			name          string
			before, after []string // ip rule's arguments, before and after a first Apply
			others        []string
		}{
			{"none", nil, nil, nil},
			{"others first", zeros, nil, foreign},
			{"others later", nil, zeros, foreign},
			{"others first, ahead of the kernel's", append(zeros[:len(zeros):len(zeros)], "del pref 0 table local", "add pref 0 table local"), nil, foreign},
			{"the kernel's elsewhere", moved, nil, elsewhere},
			{"IPv6: the kernel's moves", nil, moved, elsewhere},
			{"an earlier version's", earlier, nil, nil},
			{"an earlier version's, others ahead", append(earlier[:len(earlier):len(earlier)], zeros...), nil, foreign},
			{"ours in disorder", nil, []string{"del pref 0 fwmark 0x1000/0x1000 table 29808", "add pref 0 fwmark 0x1000/0x1000 table 29808"}, nil},
			{"another sidecar's uid", nil, []string{"add pref 0 uidrange 9-9 table main suppress_ifgroup default"}, nil},
			{"IPv4: copies of the kernel's", []string{"add pref 0 table local protocol static", "add pref 0 table local protocol 77"}, nil, nil},
			{"IPv4: the kernel's comes back", nil, []string{"add pref 0 table local", "add pref 0 from " + f.pod + " table 100"}, []string{"0: from " + f.pod + " lookup 100"}},
		} {
			if strings.HasPrefix(tt.name, "IPv4") && !f.hides || strings.HasPrefix(tt.name, "IPv6") && f.hides {
				continue // copies may stay in IPv6
			}
			t.Run(f.option+" "+tt.name, func(t *testing.T) {
				t.Parallel()
				pod, c := newPod(t), usual(t, contract.ModeNAT)
				pod.Up()
				change := func(lines []string) {
					for _, r := range lines {
						pod.Run(append([]string{"ip", f.option, "rule"}, strings.Fields(r)...)...)
					}
				}
				want := func(first ...string) {
					t.Helper()
					var got []string
					for line := range strings.Lines(pod.Run("ip", f.option, "rule")) {
						if r := strings.ReplaceAll(strings.TrimSpace(line), ":\t", ": "); strings.HasPrefix(r, "0:") || !strings.HasPrefix(r, "3276") {
							got = append(got, r)
						}
					}
					if diff := cmp.Diff(append(first, tt.others...), got); diff != "" {
						t.Errorf("-want +got:\n%s", diff)
					}
				}
				change(tt.before)
				for range 2 {
					apply(t, pod, c)
					if change(tt.after); len(tt.after) > 0 && tt.name != "others later" {
						var drift Drift
						if err := Check(pod.Path(), c, nil); !errors.As(err, &drift) {
							t.Errorf("check says %v", err)
						}
					}
					tt.after = nil
					apply(t, pod, c)
					want(f.ours...)
					if err := Check(pod.Path(), c, nil); err != nil {
						t.Error(err)
					}
				}
				if err := Remove(pod.Path(), c.Interface); err != nil {
					t.Error(err)
				}
				want(local)
			})
		}
	}
}

// TestManyRules: more rules ahead of ours than a repair may take the time for are named,
// with the cure; any number behind ours is right, and no obstacle for Remove.
func TestManyRules(t *testing.T) {
	pod, c := newPod(t), usual(t, contract.ModeNAT)
	var batch strings.Builder
	for i := range mostMoved + 1 {
		fmt.Fprintf(&batch, "rule add pref 0 fwmark %d table 100\n", i+5000)
	}
	path := filepath.Join(t.TempDir(), "rules")
	if err := os.WriteFile(path, []byte(batch.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	apply(t, pod, c)
	pod.Run("ip", "-4", "-batch", path)
	apply(t, pod, c)
	if err := Check(pod.Path(), c, nil); err != nil {
		t.Error(err)
	}
	pod.Run("ip", "-4", "rule", "del", "pref", "0", "uidrange", "7089-7089", "table", "main")
	if err := Apply(pod.Path(), c); err == nil || !strings.Contains(err.Error(), `rules: 501 of other software have priority 0 and are not behind the plugin's, the last one "0: from all fwmark 0x157c/0xffffffff lookup 100"`) {
		t.Errorf("error is %v", err)
	}
	if err := Remove(pod.Path(), c.Interface); err != nil {
		t.Error(err)
	}
	if got := strings.Count(pod.Run("ip", "-4", "rule"), "lookup 100"); got != mostMoved+1 {
		t.Errorf("%d rules of other software are left", got)
	}
}

// TestInterrupt: a check that has had its time reads no more rules and filters.
func TestInterrupt(t *testing.T) {
	pod, c := newPod(t), usual(t, contract.ModeNAT)
	p, err := open(pod.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if _, err := p.filters(c.Interface); err != nil {
		t.Error(err)
	}
	p.interrupt()
	if _, err := p.filters(c.Interface); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("filters: %v", err)
	}
	if _, err := p.familiesOf(c.Interface, c.Mode, c.ProxyUID)[0].checkRules(p); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("rules: %v", err)
	}
}

// TestRuleSteps: at no moment of an Apply or a Remove does the rule for the sidecar's uid
// come before all that look up table local.
func TestRuleSteps(t *testing.T) {
	for _, f := range families(contract.ModeNAT, 1, 2, 2) {
		af := uint8(f.af)
		local, answers, foreign := kernelRule(af), answersRule(af, 7089), localRule(af, 0, none)
		foreign.table = 100
		f.rules = append(f.rules, answers)
		ours := f.first([]ipRule{local})
		if !f.hidesLocal() {
			ours = append([]ipRule{local}, ours...)
		}
		cat := func(lists ...[]ipRule) []ipRule { return slices.Concat(lists...) }
		for name, have := range map[string][]ipRule{
			"new": {local}, "others first": {foreign, local}, "programmed": ours, "others ahead": cat([]ipRule{foreign}, ours),
			"others ahead of another sidecar's": cat([]ipRule{foreign}, ours[:len(ours)-1], []ipRule{answersRule(af, 9), foreign}),
			"an earlier version's":              {markedRule(af, 1, unix.FR_ACT_TO_TBL, contract.RouteTable), markedRule(af, 1, unix.FR_ACT_UNREACHABLE, 0), localRule(af, 2, 0)},
		} {
			for what, plan := range map[string]func([]ipRule) ([]ipRule, []ipRule){"Apply": f.planPlace, "Remove": f.planRemove} {
				rules := slices.Clone(have)
				look := func(step string) {
					for _, r := range rules {
						if r.action == unix.FR_ACT_TO_TBL && r.table == unix.RT_TABLE_LOCAL {
							return
						}
						if r.forAnswers() {
							t.Errorf("%s, %s, %s, after %s: %q", f.name, name, what, step, rules)
							return
						}
					}
				}
				add, del := plan(rules)
				for _, r := range add {
					i := slices.IndexFunc(rules, func(o ipRule) bool { return o.priority > r.priority })
					if i < 0 {
						i = len(rules)
					}
					rules = slices.Insert(rules, i, r)
					look("adding " + r.String())
				}
				for _, r := range del {
					i := slices.IndexFunc(rules, r.names)
					if i < 0 {
						t.Fatalf("%s, %s, %s: no rule %q in %q", f.name, name, what, r, rules)
					}
					rules = slices.Delete(rules, i, i+1)
					look("deleting " + r.String())
				}
				if add, del := plan(rules); len(add)+len(del) > 0 {
					t.Errorf("%s, %s, %s: more to do: %q %q", f.name, name, what, add, del)
				}
			}
		}
	}
}

// names reports whether a request to delete r may take o (rule_find in the kernel's
// net/core/fib_rules.c).
func (r ipRule) names(o ipRule) bool {
	return r.priority == o.priority && r.action == o.action && r.table == o.table && (r.mask == 0 || r.mark == o.mark) &&
		(r.suppress == none || r.suppress == o.suppress) && (r.group == none || r.group == o.group) && (r.users == nil || r.forUsers() == o.forUsers())
}
