package adminhttp

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/internal/source"
)

// TestTurn: whose turn it is to go.
func TestTurn(t *testing.T) {
	const kubelet = "192.0.2.1"
	each := func(format string, n int) (all []string) {
		for i := range n {
			all = append(all, fmt.Sprintf(format, i+1))
		}
		return all
	}
	same := func(address string, n int) (all []string) {
		for range n {
			all = append(all, address)
		}
		return all
	}
	join := func(lists ...[]string) (all []string) {
		for _, l := range lists {
			all = append(all, l...)
		}
		return all
	}
	for _, tt := range []struct {
		name string
		open []string // oldest first
		busy []int    // that do not wait for their peers
		want int
	}{
		{"none waits", same("192.0.2.2", 3), []int{0, 1, 2}, -1},
		{"the oldest of one", same("192.0.2.2", 3), nil, 0},
		{"the oldest that waits", same("192.0.2.2", 3), []int{0}, 1},
		{"the oldest of many alike", join(each("192.0.2.%d", 63)), nil, 0},
		{"of the source that has most", join([]string{kubelet}, same("192.0.2.2", few+1), each("198.51.100.%d", 9)), nil, 1},
		{"which does not wait", join([]string{kubelet}, same("192.0.2.2", few+1)), []int{1, 2, 3, 4, 5}, 0},
		{"a kubelet's probes at once are as one", join(each("198.51.100.%d", 60), same(kubelet, few)), nil, 0},
		{"a source with a /64", join([]string{"fd00::1"}, each("fd00:0:0:1::%x", 63)), nil, 1},
		{"one beside the kubelet in its /64", join([]string{"fd00::1"}, same("fd00::2", few+1)), nil, 1},
		{"loopback is one", join([]string{kubelet}, each("127.0.0.%d", 63)), nil, 1},
	} {
		d := newDoor()
		for _, a := range tt.open {
			addr := netip.MustParseAddr(a)
			d.open = append(d.open, &conn{address: addr, source: source.Of(addr), waits: true})
		}
		for _, i := range tt.busy {
			d.open[i].waits = false
		}
		if got := d.turn(); got != tt.want {
			t.Errorf("%s: number %d, want %d", tt.name, got, tt.want)
		}
	}
}
