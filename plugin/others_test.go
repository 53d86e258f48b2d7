package main

import (
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// TestOtherInterceptor: rules of istio's that were there first are named on stderr,
// one line for each; the ADD succeeds, and its result is what it would be. CHECK fails.
func TestOtherInterceptor(t *testing.T) {
	lab.Need(t, "iptables-nft", "ip6tables-nft")
	n := newPod(t)
	for _, iptables := range []string{"iptables-nft", "ip6tables-nft"} {
		n.Pod.Run(iptables, "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "-j", "REDIRECT", "--to-ports", "15006")
	}
	in := conf("1.1.0", dual, annotated("mode", "nat"))
	do := func(verb string) answer { return call{command: verb, netns: n.Pod.Path(), stdin: in}.run(t, n.Node) }
	a := do("ADD")
	if a.failed {
		t.Fatalf("%+v", a)
	}
	equalJSON(t, in["prevResult"], a.stdout)
	const rule = " nat, chain PREROUTING (priority -100), rule 1 redirects new connections to port 15006, as istio does"
	lines := strings.Split(strings.TrimSuffix(a.stderr, "\n"), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], "table ip"+rule) || !strings.Contains(lines[1], "table ip6"+rule) ||
		!strings.Contains(lines[0], "mode: none") {
		t.Errorf("ADD says on stderr:\n%s", a.stderr)
	}
	if a := do("CHECK"); a.code != errDrift || !strings.Contains(a.msg, "table ip"+rule) {
		t.Errorf("CHECK: %+v", a)
	}
}
