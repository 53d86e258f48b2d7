package intercept

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestRuleOrder: whatever rules are there, ours come first and the others keep their
// order; Remove leaves the kernel's once, at the head.
func TestRuleOrder(t *testing.T) {
	ours := []string{
		"0: from all fwmark 0x1000/0x1000 lookup 29808", "0: from all fwmark 0x1000/0x1000 unreachable",
		"0: from all lookup local suppress_prefixlength 0", "0: from all uidrange 7089-7089 lookup main suppress_ifgroup default",
	}
	const local = "0: from all lookup local"
	foreign := []string{
		"0: not from all fwmark 0xca6c lookup 51820", "0: from 10.1.0.2 ipproto udp dport 53 lookup 100",
		"0: from all iif nothing [detached] lookup local", "0: from all uidrange 5-6 lookup main suppress_ifgroup default",
	}
	add := []string{
		"not fwmark 51820 table 51820", "from 10.1.0.2 ipproto udp dport 53 table 100",
		"iif nothing table local", "uidrange 5-6 table main suppress_ifgroup default",
	}
	earlier := []string{
		"add pref 1 fwmark 0x1000/0x1000 table 29808", "add pref 1 fwmark 0x1000/0x1000 unreachable",
		"add pref 2 table local suppress_prefixlength 0", "del pref 0 table local",
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
		{"copies of the kernel's", []string{"add pref 0 table local protocol static", "add pref 0 table local protocol 77"}, nil, nil},
		{"the kernel's elsewhere", []string{"add pref 9 table local", "del pref 0 table local"}, nil, nil},
		{"the kernel's comes back", nil, []string{"add pref 0 table local", "add pref 0 from 10.1.0.2 table 100"}, []string{"0: from 10.1.0.2 lookup 100"}},
		{"an earlier version's", earlier, nil, nil},
		{"an earlier version's, others ahead", append(earlier[:4:4], zeros...), nil, foreign},
		{"ours in disorder", nil, []string{"del pref 0 fwmark 0x1000/0x1000 table 29808", "add pref 0 fwmark 0x1000/0x1000 table 29808"}, nil},
		{"another sidecar's uid", nil, []string{"add pref 0 uidrange 9-9 table main suppress_ifgroup default"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			pod, c := newPod(t), Default(contract.ModeNAT)
			pod.Up()
			change := func(lines []string) {
				for _, r := range lines {
					pod.Run(append([]string{"ip", "-4", "rule"}, strings.Fields(r)...)...)
				}
			}
			want := func(first ...string) {
				t.Helper()
				var got []string
				for line := range strings.Lines(pod.Run("ip", "-4", "rule")) {
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
				change(tt.after)
				tt.after = nil
				apply(t, pod, c)
				want(ours...)
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
