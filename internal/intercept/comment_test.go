package intercept

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/userdata"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestComments: each rule says what it does, shortly, in words that are only its
// own, so that CHECK's "the rule of chain x that … is missing" is a sentence and
// names one rule.
func TestComments(t *testing.T) {
	third := regexp.MustCompile(`^[a-z]+s [ -!#-~]+[^.]$`) // "drops every foreign source"
	for name, c := range goldens(t) {
		for _, table := range ruleset(c, required) {
			for _, ch := range table.chains {
				seen := map[string]bool{}
				for _, r := range ch.rules {
					if len(r.does) > 60 || !third.MatchString(r.does) || seen[r.does] {
						t.Errorf("%s: chain %s: %q is too long, not of the form wanted or there twice", name, ch.name, r.does)
					}
					seen[r.does] = true
				}
			}
		}
	}
}

var ruleComment = regexp.MustCompile(` comment ".*"`)

// TestUpgradeOfComments: a pod whose rules an earlier version wrote passes CHECK if
// only the comments are missing. Where a set has another name CHECK says so in a few
// words, and Apply and Remove leave nothing of it.
func TestUpgradeOfComments(t *testing.T) {
	for name, c := range goldens(t) {
		t.Run(name, func(t *testing.T) {
			pod, fresh := newPod(t), newPod(t)
			pod.Up()
			before := state(pod)
			apply(t, fresh, c)
			apply(t, pod, c)
			golden := golden(t, name)
			rules := ruleComment.ReplaceAllString(golden, "")
			load := func(rules string) {
				t.Helper()
				pod.Run("nft", "delete table inet tproxy_cni; delete table netdev tproxy_cni")
				pod.Run("nft", rules)
			}
			load(rules)
			if err := Check(pod.Path(), c, required); err != nil {
				t.Errorf("without comments: %v", err)
			}
			load(strings.ReplaceAll(rules, "learned4", "later4"))
			err := Check(pod.Path(), c, required)
			if err == nil || !strings.Contains(err.Error(), "set learned4 of table inet tproxy_cni is missing") || len(err.Error()) > 700 {
				t.Errorf("check says %v", err)
			}
			apply(t, pod, c)
			if diff := cmp.Diff(state(fresh), state(pod)); diff != "" {
				t.Errorf("a new pod and an old one differ (-new +old):\n%s", diff)
			}
			load(strings.ReplaceAll(rules, "learned4", "later4"))
			if err := Remove(pod.Path(), c.Interface); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, state(pod)); diff != "" {
				t.Errorf("before and after:\n%s", diff)
			}
		})
	}
}

// TestForeignComments: whatever a process of the pod writes into a rule's user
// data, CHECK shows it in one printable line, and does not fall over it.
func TestForeignComments(t *testing.T) {
	pod := newPod(t)
	c := usual(t, contract.ModeNAT)
	apply(t, pod, c)
	inet := &nftables.Table{Name: contract.Table, Family: nftables.TableFamilyINet}
	const is = "rule 2 of chain exempt of table inet tproxy_cni is unexpected"
	for name, tt := range map[string]struct {
		udata []byte
		want  string
	}{
		"a comment":     {userdata.AppendString(nil, userdata.TypeComment, "mine"), is + ` (its comment: "mine")`},
		"no comment":    {nil, is},
		"another field": {userdata.AppendString(nil, 7, "mine"), is},
		"behind one":    {userdata.AppendString(userdata.AppendUint32(nil, 7, 1), userdata.TypeComment, "mine"), is + ` (its comment: "mine")`},
		"cut short":     {[]byte{byte(userdata.TypeComment), 200, 'x'}, is + ` (its comment: "x")`},
		"only a type":   {[]byte{byte(userdata.TypeComment)}, is},
		"does not print": {
			userdata.AppendString(nil, userdata.TypeComment, "\x1b[2J\nlevel=ERROR"),
			is + ` (its comment: "\x1b[2J\nlevel=ERROR")`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			addRule(t, pod, &nftables.Rule{Table: inet, Chain: &nftables.Chain{Name: "exempt", Table: inet}, Exprs: accept, UserData: tt.udata})
			defer apply(t, pod, c)
			if diff := cmp.Diff(error(Drift{tt.want}), Check(pod.Path(), c, nil)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// addRule adds a rule past nft's language.
func addRule(t *testing.T, pod *lab.NS, r *nftables.Rule) {
	t.Helper()
	if err := pod.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		conn.AddRule(r)
		return conn.Flush()
	}); err != nil {
		t.Fatal(err)
	}
}
