package intercept

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestCounters: what the rules do is counted under the right name, survives another
// Apply, and makes no difference to CHECK; README.md says what each counts. That
// real traffic is counted is integration's to show.
func TestCounters(t *testing.T) {
	for name, c := range goldens(t) {
		t.Run(name, func(t *testing.T) {
			pod := newPod(t)
			if have, err := Counters(pod.Path()); err != nil || len(have) > 0 {
				t.Errorf("before Apply: %v, %v", have, err)
			}
			apply(t, pod, c)
			want := map[string]uint64{}
			for _, m := range CounterMeanings {
				want[m.Name] = 0
			}
			counters(t, pod.Path(), want)

			// The guard drops what has a foreign source, and counts each packet.
			conn, err := pod.Dial("udp", "192.0.2.9:0", "10.1.0.1:9")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			for range 3 {
				if _, err := conn.Write([]byte("x")); !errors.Is(err, unix.EPERM) {
					t.Errorf("a datagram from a foreign source: %v", err)
				}
			}
			want[counterGuardDropped] = 3
			counters(t, pod.Path(), want)

			if err := Check(pod.Path(), c, required); err != nil {
				t.Errorf("check: %v", err)
			}
			apply(t, pod, c)
			counters(t, pod.Path(), want)
		})
	}
	doc := read(t, "README.md")
	for _, m := range CounterMeanings {
		if row := fmt.Sprintf("| `%s` | %s |\n", m.Name, m.Counts); !strings.Contains(doc, row) {
			t.Errorf("README lacks %s", row)
		}
	}
}

func counters(t *testing.T, path string, want map[string]uint64) {
	t.Helper()
	have, err := Counters(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("counters (-want +have):\n%s", diff)
	}
}

var (
	counterParts = regexp.MustCompile(`(?m)^\tcounter \w+ {}\n|counter name "\w+" `)
	newRules     = regexp.MustCompile(`(?m)^.*(?:to its own port|no process listens)".*\n| socket transparent <= 1( accept comment "lets redirected)`)
)

// TestUpgradeOfCounters: CHECK says in few words what a pod lacks that was programmed
// by a version without counters, rules against loops and a protocol of its routes, and
// another Apply brings it up to date.
func TestUpgradeOfCounters(t *testing.T) {
	for name, c := range goldens(t) {
		t.Run(name, func(t *testing.T) {
			pod, fresh := newPod(t), newPod(t)
			apply(t, fresh, c)
			apply(t, pod, c)
			old := newRules.ReplaceAllString(counterParts.ReplaceAllString(golden(t, name), ""), "$1")
			pod.Run("nft", "delete table inet tproxy_cni; delete table netdev tproxy_cni")
			pod.Run("nft", old)
			for _, dev := range []string{"-4 dev lo table 29808", "-4 dev eth0 table 29808 metric 2048", "-4 dev lo table local", "-6 dev lo table 29808", "-6 dev eth0 table 29808 metric 2048"} {
				args := strings.Fields(dev)
				pod.Run(slices.Concat([]string{"ip", args[0], "route", "replace", "local", "default"}, args[1:])...)
			}

			err := Check(pod.Path(), c, required)
			for _, want := range []string{
				"table inet tproxy_cni lacks counter guard_dropped, loop_refused, port_clashes, redirected, refused, spoof_refused, spoofed; ",
				"table netdev tproxy_cni lacks counter frames_dropped; ",
				fmt.Sprintf("the rule of chain spoofed that refuses a dial of uid %d to its own port is missing; ", c.ProxyUID),
				fmt.Sprintf(`ipv6 route "local default dev lo table 29808" has protocol 3, not %d`, routeProtocol(c.Mode)),
			} {
				if err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 1200 {
					t.Errorf("check says %v; want %q", err, want)
				}
			}
			apply(t, pod, c)
			if diff := cmp.Diff(state(fresh), state(pod)); diff != "" {
				t.Errorf("a new pod and an old one differ (-new +old):\n%s", diff)
			}
		})
	}
}
