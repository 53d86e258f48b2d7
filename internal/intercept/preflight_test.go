package intercept

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/lacks"
)

func TestPreflight(t *testing.T) {
	lab.Need(t)
	for _, mode := range []contract.Mode{contract.ModeNAT, contract.ModeTProxy} {
		for features, want := range map[string]contract.Guard{
			"": contract.GuardNFT, lacks.Egress: contract.GuardTC, lacks.Egress + "," + lacks.TC: contract.GuardNone,
		} {
			if features == "" && !lab.Has(t, lab.EgressHook) {
				want = contract.GuardTC
			}
			lack(t, features)
			missing, guard, err := Preflight(mode)
			if err != nil || len(missing) > 0 || guard.Guard != want {
				t.Errorf("%s, lacks %q: missing %q, packet guard %s, %v", mode, features, missing, guard, err)
			}
		}
	}
}

// TestProbeNames: what the kernel refuses is named, and nothing else.
func TestProbeNames(t *testing.T) {
	pod := newPod(t)
	for _, tc := range []struct {
		name   string
		change func(*table)
		want   []string
	}{
		{"expression", func(inet *table) {
			// A key that no kernel knows stands for an expression that this one lacks.
			for _, ch := range inet.chains {
				for _, r := range ch.rules {
					for i, e := range r.expr {
						if isA[*expr.Socket](e) {
							r.expr[i] = &expr.Socket{Key: 250, Register: reg1}
						}
					}
				}
			}
		}, []string{"nft socket", "nft tproxy"}}, // no rule has tproxy without socket
		{
			"chain type", func(inet *table) { inet.chains[0].kind = "bogus" },
			[]string{"nft inet chain of type bogus at hook output"},
		},
		{"counter", func(inet *table) { inet.counters[0].Name = strings.Repeat("x", 256) }, []string{"nft counter ("}}, // the kernel takes 255
		{"family", func(inet *table) { inet.Family = 200 }, []string{"nft tables of family"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := open(pod.Path())
			if err != nil {
				t.Fatal(err)
			}
			defer p.close()
			defer func() { _ = p.dropTables() }()
			tables := ruleset(Default(contract.ModeTProxy), nil)
			tc.change(&tables[0])
			missing := probe(library(t, p), tables)
			if !lab.Has(t, lab.EgressHook) { // named too, rightly
				missing = slices.DeleteFunc(missing, func(m string) bool { return strings.Contains(m, " at hook egress ") })
			}
			if len(missing) != len(tc.want) {
				t.Fatalf("missing %q, want %q", missing, tc.want)
			}
			for i := range missing {
				if !strings.HasPrefix(missing[i], tc.want[i]) {
					t.Errorf("missing %q, want %q", missing[i], tc.want[i])
				}
			}
		})
	}
}

// TestOwnNamespace: who is in the pod programs it with CAP_NET_ADMIN alone, the
// sysctls being right already. A packet guard by tc needs CAP_BPF, too.
func TestOwnNamespace(t *testing.T) {
	const env = "REDIRECT_TEST_OWN"
	if mode := os.Getenv(env); mode != "" {
		if addrs, err := net.InterfaceAddrs(); err != nil || !strings.Contains(fmt.Sprint(addrs), "10.1.0.2/24") {
			t.Fatalf("this is not the pod: %v (%v)", addrs, err)
		}
		// Not usual: this process may not make a namespace to probe the kernel in.
		if err := Apply("/proc/self/ns/net", bestEffort(contract.Mode(mode))); err != nil {
			t.Fatal(err)
		}
		return
	}
	for name, c := range map[string]Config{"nat": usual(t, contract.ModeNAT), "tproxy": usual(t, contract.ModeTProxy)} {
		t.Run(name, func(t *testing.T) {
			own, other := newPod(t), newPod(t)
			needed, err := WrongSysctls(own.Path())
			if err != nil {
				t.Fatal(err)
			}
			for _, key := range needed {
				own.Sysctl(key, "1")
			}
			user := lab.User{Caps: []string{"net_admin"}, NoNewPrivs: true}
			if !lab.Has(t, lab.EgressHook) { // the tc filter is a BPF program, whose memory is bounded by rlimit before 5.11
				user.Caps = append(user.Caps, "bpf", "sys_resource")
			}
			if out, err := own.TryAs(user, "env", env+"="+name, os.Args[0], "-test.run=^TestOwnNamespace$"); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			apply(t, other, c)
			ours, want := state(own), state(other)
			for key := range want {
				if ours[key] != want[key] {
					t.Errorf("%s is\n%s\nwant\n%s", key, ours[key], want[key])
				}
			}
		})
	}
}

// TestIsOwn: neither another place nor, for a thread that is elsewhere, the
// process' own is one's own. TestOwnNamespace shows what is.
func TestIsOwn(t *testing.T) {
	pod := newPod(t)
	home := "/proc/self/ns/net"
	if own, err := isOwn(pod.Path()); err != nil || own {
		t.Errorf("pod is own: %v", err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			if own, err := isOwn(home); err != nil || own {
				t.Errorf("home is own to a thread elsewhere: %v", err)
			}
			return nil
		}()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestWrongSysctls(t *testing.T) {
	pod := newPod(t)
	all := []string{"net.ipv4.tcp_fwmark_accept", "net.ipv4.fwmark_reflect", "net.ipv6.fwmark_reflect", "net.ipv6.ip_nonlocal_bind"}
	wrong, err := WrongSysctls(pod.Path())
	if err != nil || !slices.Equal(wrong, all) {
		t.Errorf("before: %q %v", wrong, err)
	}
	apply(t, pod, usual(t, contract.ModeNAT))
	if wrong, err = WrongSysctls(pod.Path()); err != nil || len(wrong) > 0 {
		t.Errorf("after: %q %v", wrong, err)
	}
}

// TestOpenWithoutCapability: an error, and no panic, where setns is refused.
func TestOpenWithoutCapability(t *testing.T) {
	const env = "REDIRECT_TEST_OPEN"
	if path := os.Getenv(env); path != "" {
		if err := Apply(path, bestEffort(contract.ModeNAT)); err == nil || !strings.Contains(err.Error(), "operation not permitted") {
			t.Errorf("error is %v", err)
		}
		return
	}
	here, there := newPod(t), newPod(t)
	user := lab.User{Caps: []string{"net_admin"}, NoNewPrivs: true}
	if out, err := here.TryAs(user, "env", env+"="+there.Path(), os.Args[0], "-test.run=^TestOpenWithoutCapability$"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
