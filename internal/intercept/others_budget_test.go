package intercept

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestBudget: whatever a pod has made, a look at it reads no more rules than one look
// may, each set once, and still finds what comes first.
func TestBudget(t *testing.T) {
	const steps = 1000
	for _, tt := range []struct {
		name            string
		hooks, rules    int
		addresses, size int // of the set
		all             bool
	}{
		{"few", 2, 50, 2, 10, true},
		{"many rules", 1, 2 * steps, 1, 10, false},
		{"many chains on the hook", steps, 1, 1, 10, false},
		{"many addresses", 1, steps / 10, 20, 10, false},
		{"some of each", 50, 200, 8, 10, false},
		{"small chains", 50, 100, 1, 10, false},
		{"a large set", 2, 10, 1, elementsPerStep * steps, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			seen, read := 0, 0
			see := func(k probePacket, rule []byte) seenRule {
				seen++
				k.set("any")
				r := seenRule{ports: portRange(80, 80)} // unsure: the next rule sees them, too
				if rule[0] == 1 {
					r.action, r.taken = actTake, take{"redirects", 9999}
				}
				return r
			}
			rules := make([][]byte, tt.rules)
			for i := range rules {
				rules[i] = []byte{0}
			}
			rules[0] = []byte{1}
			hooks := make([]hooked, tt.hooks)
			for i := range hooks {
				hooks[i] = hooked{family: nftables.TableFamilyINet, table: "mesh", chain: "in", rules: map[string][][]byte{"in": rules}, see: see}
			}
			list, all := follow(hooks, make([]probePacket, tt.addresses), Default(contract.ModeNAT), steps, func(tableID, string) *knownSet {
				read++
				return &knownSet{spans: make([]span, tt.size)}
			})
			if all != tt.all || seen > steps || all && seen != tt.hooks*tt.rules*tt.addresses {
				t.Errorf("%d rules seen, all: %v", seen, all)
			}
			if read != 1 {
				t.Errorf("the set was read %d times", read)
			}
			if len(list) == 0 || len(list) > mostOthers || list[0].Ports != " to port 80" {
				t.Errorf("%d found: %v", len(list), list)
			}
		})
	}
}

// TestTooMany: Others says that it has not followed all, and what it found; CHECK fails
// for the latter alone.
func TestTooMany(t *testing.T) {
	pod, c := newPod(t), usual(t, contract.ModeNAT)
	apply(t, pod, c)
	var batch strings.Builder
	for i := range mostAddresses {
		fmt.Fprintf(&batch, "addr add 10.1.0.%d/24 dev eth0\n", 100+i)
	}
	pod.Run("sh", "-c", `printf %s "$1" | ip -batch -`, "sh", batch.String())
	pod.Run("nft", "table ip mesh { chain in { type nat hook prerouting priority dstnat; }; }")
	if others, err := Others(pod.Path(), c); len(others) != 0 || !errors.Is(err, errTooMany) {
		t.Errorf("none: %v, %v", others, err)
	}
	if err := Check(pod.Path(), c, required); err != nil {
		t.Errorf("none: CHECK says %v", err)
	}
	pod.Run("nft", "add rule ip mesh in tcp dport 80 redirect to :9999")
	others, err := Others(pod.Path(), c)
	if len(others) != 1 || !errors.Is(err, errTooMany) {
		t.Errorf("one: %v, %v", others, err)
	}
	if diff := cmp.Diff(error(Taken(others)), Check(pod.Path(), c, required)); diff != "" {
		t.Errorf("CHECK (-want +got):\n%s", diff)
	}
}

// TestDeepChains: chains of iptables-legacy that jump each to the next do not exhaust
// the stack; nftables allows no such depth.
func TestDeepChains(t *testing.T) {
	lab.Need(t, "iptables-legacy-restore", "ip6tables-legacy-restore")
	const deep = 15_000
	var rules strings.Builder
	fmt.Fprintln(&rules, "*nat")
	for i := range deep {
		fmt.Fprintf(&rules, ":c%d - [0:0]\n", i)
	}
	fmt.Fprintln(&rules, "-A PREROUTING -j c0")
	for i := range deep - 1 {
		fmt.Fprintf(&rules, "-A c%d -j c%d\n", i, i+1)
	}
	fmt.Fprintf(&rules, "-A c%d -p tcp -j REDIRECT --to-ports 9999\nCOMMIT\n", deep-1)
	file := filepath.Join(t.TempDir(), "rules") // too long for an argument
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, restore := range []string{"iptables-legacy-restore", "ip6tables-legacy-restore"} {
		pod := newPod(t)
		pod.Run(restore, file)
		if others, err := Others(pod.Path(), Default(contract.ModeNAT)); len(others) != 0 || !errors.Is(err, errTooMany) {
			t.Errorf("%s: %v, %v", restore, others, err)
		}
	}
}
