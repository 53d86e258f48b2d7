package intercept

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/bpf"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/lacks"
)

// What the attacks of integration's TestGuard meet on a kernel without the hook for
// chain egress is programmed here on any kernel, by package lacks.

// lack makes the kernel one that lacks the features, for the test.
func lack(t *testing.T, features string) {
	t.Helper()
	lacks.Features = features
	t.Cleanup(func() { lacks.Features = "" })
}

// bestEffort is the default with which a kernel without the hook does.
func bestEffort(mode contract.Mode) Config {
	c := Default(mode)
	c.PacketGuard = contract.PacketGuardBestEffort
	return c
}

func applyGuarded(t *testing.T, pod *lab.NS, c Config, want contract.Guard) Guarded {
	t.Helper()
	g, err := ApplyGuarded(pod.Path(), c)
	if err != nil || g.Guard != want {
		t.Fatalf("packet guard %q, want %s; %v", g.Guard, want, err)
	}
	if got, err := Guard(pod.Path(), c.Interface); err != nil || got != want {
		t.Errorf("in force is %q, want %s; %v", got, want, err)
	}
	if err := Check(pod.Path(), c, nil); err != nil {
		t.Errorf("check says %v", err)
	}
	return g
}

// pass is a filter of classic BPF that lets everything out.
const pass = "1,6 0 0 4294967295,"

// changing is what differs between equal filters.
var changing = regexp.MustCompile(` id \d+| not_in_hw| jited| name tproxy_cni`)

func tcState(pod *lab.NS) string { return changing.ReplaceAllString(state(pod)["tc"], "") }

// wantTC is the filter as tc shows it, with the handle of who made the qdisc.
func wantTC(t *testing.T, pod *lab.NS, handle string) {
	t.Helper()
	if got := tcState(pod); !strings.Contains(got, "pref 1 bpf chain 0 handle "+handle+" tproxy_cni direct-action tag ") || !strings.Contains(got, "qdisc clsact ") {
		t.Errorf("tc shows\n%s", got)
	}
}

// TestPacketGuard: without the hook for chain egress the pod has the next best guard,
// in both modes; all else is the same, another Apply changes nothing, and Remove leaves
// nothing.
func TestPacketGuard(t *testing.T) {
	lab.NeedKernel(t, lab.EgressHook)
	for features, want := range map[string]contract.Guard{lacks.Egress: contract.GuardTC, lacks.Egress + "," + lacks.TC: contract.GuardNone} {
		for _, mode := range []contract.Mode{contract.ModeNAT, contract.ModeTProxy} {
			t.Run(string(mode)+" "+string(want), func(t *testing.T) {
				whole, pod := newPod(t), newPod(t)
				pod.Up()
				before := state(pod)
				applyGuarded(t, whole, bestEffort(mode), contract.GuardNFT)
				lack(t, features)
				g := applyGuarded(t, pod, bestEffort(mode), want)
				if !strings.Contains(g.String(), EgressHook) {
					t.Errorf("it says %s", g)
				}
				if want == contract.GuardTC {
					wantTC(t, pod, "0x74700002")
				}
				egress := chainText(state(whole)["rules, listed"], "egress")
				if without := strings.Replace(state(whole)["rules, listed"], "\n"+egress, "", 1); egress == "" || state(pod)["rules, listed"] != without {
					t.Errorf("with the hook and without (-with +without):\n%s", cmp.Diff(without, state(pod)["rules, listed"]))
				}
				again, once := applyGuarded(t, pod, bestEffort(mode), want), state(pod)
				if again.Guard != want || changing.ReplaceAllString(once["tc"], "") != tcState(pod) {
					t.Errorf("another Apply: %s\n%s", again, once["tc"])
				}
				c := bestEffort(mode)
				c.Interface = "lo2"
				pod.Run("ip", "link", "add", c.Interface, "type", "veth", "peer", "name", "lo3")
				if err := Apply(pod.Path(), c); err == nil || !strings.Contains(err.Error(), "intercepted on eth0 already") {
					t.Errorf("on another interface: %v", err)
				}
				pod.Run("ip", "link", "del", c.Interface)
				for range 2 {
					if err := Remove(pod.Path(), "eth0"); err != nil {
						t.Fatal(err)
					}
				}
				after := state(pod)
				for key := range before {
					if !strings.Contains(key, "conntrack") && before[key] != after[key] {
						t.Errorf("%s before and after:\n%s", key, cmp.Diff(before[key], after[key]))
					}
				}
			})
		}
	}
}

// TestPacketGuardRequired: a pod that requires the whole guard is not programmed
// without, and the error names what is missing and the way out.
func TestPacketGuardRequired(t *testing.T) {
	pod := newPod(t)
	pod.Up()
	before := state(pod)
	lack(t, lacks.Egress)
	err := Apply(pod.Path(), Default(contract.ModeNAT))
	var none NoGuard
	if !errors.As(err, &none) || !strings.Contains(err.Error(), "nft netdev egress hook") ||
		!strings.Contains(err.Error(), "Linux 5.16 with CONFIG_NETFILTER_EGRESS") || !strings.Contains(err.Error(), "best-effort") {
		t.Errorf("error is %v", err)
	}
	if diff := cmp.Diff(before, state(pod)); diff != "" {
		t.Errorf("before and after:\n%s", diff)
	}
	applyGuarded(t, pod, bestEffort(contract.ModeNAT), contract.GuardTC)
	if err := Check(pod.Path(), Default(contract.ModeNAT), nil); err == nil ||
		!strings.Contains(err.Error(), "packet guard: tc is in force, and the whole one is required") || !strings.Contains(err.Error(), "annotate the pod with") {
		t.Errorf("check says %v", err)
	}
}

// TestPacketGuardRequiredLater: a programmed pod that comes to require what its kernel
// lacks, and other settings with it, stays as it is.
func TestPacketGuardRequiredLater(t *testing.T) {
	pod := newPod(t)
	lack(t, lacks.Egress)
	applyGuarded(t, pod, bestEffort(contract.ModeNAT), contract.GuardTC)
	before := state(pod)
	c := Default(contract.ModeTProxy)
	c.ProxyUID, c.ProxyPort = 4242, 15000
	var none NoGuard
	if err := Apply(pod.Path(), c); !errors.As(err, &none) {
		t.Errorf("error is %v", err)
	}
	if diff := cmp.Diff(before, state(pod)); diff != "" {
		t.Errorf("before and after:\n%s", diff)
	}
}

// TestPacketGuardChanges: a pod gets the guard that there is now, whichever it had, and
// nothing is left of that.
func TestPacketGuardChanges(t *testing.T) {
	lab.NeedKernel(t, lab.EgressHook)
	t.Cleanup(func() { lacks.Features = "" })
	c := bestEffort(contract.ModeNAT)
	pod := newPod(t)
	all := map[contract.Guard]string{contract.GuardNFT: "", contract.GuardTC: lacks.Egress, contract.GuardNone: lacks.Egress + "," + lacks.TC}
	fresh := map[contract.Guard]map[string]string{}
	for guard, features := range all {
		lacks.Features = features
		p := newPod(t)
		applyGuarded(t, p, c, guard)
		fresh[guard] = state(p)
		fresh[guard]["tc"] = tcState(p)
	}
	lacks.Features = ""
	for from, before := range all {
		for to, now := range all {
			if err := Remove(pod.Path(), c.Interface); err != nil {
				t.Fatal(err)
			}
			lacks.Features = before
			if _, err := ApplyGuarded(pod.Path(), c); err != nil {
				t.Fatal(err)
			}
			lacks.Features = now
			if from == contract.GuardTC && to == contract.GuardNone {
				applyGuarded(t, pod, c, from) // who can do less leaves what is better
				lacks.Features = ""
				applyGuarded(t, pod, c, contract.GuardNFT)
				continue
			}
			applyGuarded(t, pod, c, to)
			got := state(pod)
			got["tc"] = tcState(pod)
			if diff := cmp.Diff(fresh[to], got); diff != "" {
				t.Errorf("from %s to %s (-new pod +this one):\n%s", from, to, diff)
			}
		}
	}
}

// TestForeignTC: the qdisc and the filters of other software stay as they are; the guard
// comes before them where it can, and where it cannot that is said.
func TestForeignTC(t *testing.T) {
	for _, tc := range []struct {
		name   string
		before [][]string
		want   contract.Guard
		why    string
	}{
		{"empty clsact", [][]string{{"qdisc", "add", "dev", "eth0", "clsact"}}, contract.GuardTC, ""},
		{"filters", [][]string{
			{"qdisc", "add", "dev", "eth0", "clsact"},
			{"filter", "add", "dev", "eth0", "egress", "pref", "7", "bpf", "bytecode", pass, "flowid", "1:1"},
			{"filter", "add", "dev", "eth0", "ingress", "pref", "1", "bpf", "bytecode", pass, "flowid", "1:1"},
		}, contract.GuardTC, ""},
		{"the first place of the same kind", [][]string{
			{"qdisc", "add", "dev", "eth0", "clsact"},
			{"filter", "add", "dev", "eth0", "egress", "protocol", "all", "pref", "1", "handle", "1", "bpf", "bytecode", pass, "flowid", "1:1"},
			{"filter", "add", "dev", "eth0", "egress", "protocol", "all", "pref", "1", "handle", "2", "bpf", "bytecode", pass, "flowid", "1:2"},
		}, contract.GuardTC, ""},
		{"our handle", [][]string{
			{"qdisc", "add", "dev", "eth0", "clsact"},
			{"filter", "add", "dev", "eth0", "egress", "protocol", "all", "pref", "1", "handle", "0x74700001", "bpf", "bytecode", pass, "flowid", "1:1"},
		}, contract.GuardNone, "add the tc filter of the packet guard"},
		{"the first place", [][]string{
			{"qdisc", "add", "dev", "eth0", "clsact"},
			{"filter", "add", "dev", "eth0", "egress", "protocol", "ip", "pref", "1", "bpf", "bytecode", pass, "flowid", "1:1"},
		}, contract.GuardNone, "add the tc filter of the packet guard"},
		{"ingress", [][]string{{"qdisc", "add", "dev", "eth0", "ingress"}}, contract.GuardNone, "tc qdisc ingress of other software has the place of clsact"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			pod := newPod(t)
			for _, args := range tc.before {
				pod.Run(append([]string{"tc"}, args...)...)
			}
			list := func() string {
				return pod.Run("tc", "qdisc", "show", "dev", "eth0") + pod.Run("tc", "filter", "show", "dev", "eth0", "egress") + pod.Run("tc", "filter", "show", "dev", "eth0", "ingress")
			}
			before := list()
			lack(t, lacks.Egress)
			for range 2 {
				g, err := ApplyGuarded(pod.Path(), bestEffort(contract.ModeTProxy))
				if err != nil || g.Guard != tc.want || !strings.Contains(g.Why, tc.why) || tc.want == contract.GuardNone && g.Why == "" {
					t.Fatalf("%+v %v", g, err)
				}
			}
			if tc.want == contract.GuardTC {
				wantTC(t, pod, "0x74700001")
				if err := Check(pod.Path(), bestEffort(contract.ModeTProxy), nil); err != nil {
					t.Errorf("check says %v", err)
				}
			}
			if err := Remove(pod.Path(), "eth0"); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, list()); diff != "" {
				t.Errorf("before and after:\n%s", diff)
			}
		})
	}
}

// TestForeignFilterLater: a qdisc that Apply made stays for the filter that other
// software has added.
func TestForeignFilterLater(t *testing.T) {
	pod := newPod(t)
	lack(t, lacks.Egress)
	applyGuarded(t, pod, bestEffort(contract.ModeNAT), contract.GuardTC)
	pod.Run("tc", "filter", "add", "dev", "eth0", "ingress", "pref", "9", "bpf", "bytecode", pass, "flowid", "1:1")
	if err := Remove(pod.Path(), "eth0"); err != nil {
		t.Fatal(err)
	}
	if got := pod.Run("tc", "filter", "show", "dev", "eth0", "ingress"); !strings.Contains(got, "pref 9 bpf") {
		t.Errorf("the filter is gone: %q", got)
	}
	if got := pod.Run("tc", "filter", "show", "dev", "eth0", "egress"); got != "" {
		t.Errorf("left: %s", got)
	}
}

// TestFilterInAnotherChain: a filter of the guard's name where no packet comes is no guard.
func TestFilterInAnotherChain(t *testing.T) {
	pod, c := newPod(t), bestEffort(contract.ModeNAT)
	lack(t, lacks.Egress)
	applyGuarded(t, pod, c, contract.GuardTC)
	fd, err := bpf.LoadClassifier(contract.Table, guardProgram)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := pod.Do(func() error { return lab.FilterInChain5(c.Interface, fd) }); err != nil {
		t.Fatal(err)
	}
	pod.Run("tc", "filter", "del", "dev", c.Interface, "egress", "pref", "1", "chain", "0")
	if got, err := Guard(pod.Path(), c.Interface); err != nil || got != contract.GuardNone {
		t.Errorf("in force is %s; %v", got, err)
	}
	if err := Check(pod.Path(), c, nil); err == nil || err.Error() != "packet guard: the tc egress filter of eth0 is missing" {
		t.Errorf("check says %v", err)
	}
	applyGuarded(t, pod, c, contract.GuardTC)
}

// TestRefused: only what the kernel cannot do, or other software has, weakens the guard.
func TestRefused(t *testing.T) {
	for err, want := range map[error]bool{
		unix.ENOENT: true, unix.EOPNOTSUPP: true, unix.ENOSYS: true, unix.EINVAL: true, unix.EPERM: true, unix.EEXIST: true,
		unix.ENFILE: false, unix.EMFILE: false, unix.ENOMEM: false, unix.EBUSY: false, unix.EIO: false, unix.ENODEV: false,
	} {
		if got := refused(wrap("add", err)); got != want {
			t.Errorf("%v: %v, want %v", err, got, want)
		}
	}
}

// TestCheckPacketGuard breaks the guard by tc, and wants Check to name just that and
// another Apply to mend it.
func TestCheckPacketGuard(t *testing.T) {
	const another = "packet guard: the tc egress filter of eth0 comes after another, "
	for _, tc := range []struct {
		name   string
		change [][]string
		want   string
	}{
		{"no filter", [][]string{{"tc", "filter", "del", "dev", "eth0", "egress"}}, "packet guard: the tc egress filter of eth0 is missing"},
		{"no qdisc", [][]string{{"tc", "qdisc", "del", "dev", "eth0", "clsact"}}, "packet guard: the tc egress filter of eth0 is missing"},
		{"another program", [][]string{
			{"tc", "filter", "del", "dev", "eth0", "egress"},
			{"tc", "filter", "add", "dev", "eth0", "egress", "pref", "1", "handle", "0x74700002", "bpf", "bytecode", "1,6 0 0 0,", "flowid", "1:1"},
		}, "packet guard: the tc egress filter of eth0 is missing"},
		{"a filter before it", [][]string{
			{"tc", "filter", "add", "dev", "eth0", "egress", "pref", "1", "handle", "5", "bpf", "bytecode", pass, "flowid", "1:1"},
		}, another + "bpf with pref 1 and handle 0x5"},
		{
			"no mark",
			[][]string{{"ip", "route", "del", "local", "default", "dev", "lo", "table", "29808", "metric", "4096"}},
			`ipv4 route "local default dev lo table 29808 metric 4096", which names the packet guard, is missing`,
		},
		{
			"another mark",
			[][]string{{"ip", "route", "replace", "local", "default", "dev", "lo", "table", "29808", "metric", "4096", "proto", "120"}},
			`ipv4 route "local default dev lo table 29808 metric 4096" names another packet guard than tc`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			pod := newPod(t)
			lack(t, lacks.Egress)
			c := bestEffort(contract.ModeNAT)
			applyGuarded(t, pod, c, contract.GuardTC)
			for _, args := range tc.change {
				pod.Run(args...)
			}
			if err := Check(pod.Path(), c, nil); err == nil || err.Error() != tc.want {
				t.Errorf("check says %v\nwant %s", err, tc.want)
			}
			if _, err := ApplyGuarded(pod.Path(), c); err != nil {
				t.Fatal(err)
			}
			if err := Check(pod.Path(), c, nil); err != nil {
				t.Errorf("after another Apply check says %v", err)
			}
		})
	}
}
