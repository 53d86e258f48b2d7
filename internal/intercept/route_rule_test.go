package intercept

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/proxy/podstat"
)

// TestRuleText: CHECK and the sidecar show the same rule in the same words.
func TestRuleText(t *testing.T) {
	pod, c := newPod(t), usual(t, contract.ModeNAT)
	pod.Up()
	apply(t, pod, c)
	for _, r := range []string{
		"not fwmark 51820 table 51820", "from 10.1.0.0/24 to 10.2.0.2 table 100", "iif eth0 uidrange 5-6 table 100", "oif eth0 blackhole",
		"table main suppress_prefixlength 0", "table 100 suppress_ifgroup 5",
	} {
		pod.Run(append([]string{"ip", "-4", "rule", "add"}, strings.Fields(r)...)...)
	}
	p, err := open(pod.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	for i, f := range p.familiesOf(c.Interface, c.Mode, c.ProxyUID) {
		rules, err := f.listRules(p)
		if err != nil {
			t.Fatal(err)
		}
		var ours []string
		for _, r := range rules {
			ours = append(ours, r.String())
		}
		var theirs podstat.Routing
		if err := pod.Do(func() error { theirs = podstat.ReadRouting(i == 1); return nil }); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(ours, theirs.Rules); diff != "" {
			t.Errorf("%s (-CHECK +sidecar):\n%s", f.name, diff)
		}
	}
}
