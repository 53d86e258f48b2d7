package intercept

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/integration/results"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestFaultChanging: other software changes rules, routing rules and addresses of a pod
// while it is programmed and checked again and again. CHECK finds no difference that is
// not there; at worst the kernel's lists cannot be read, which it says.
func TestFaultChanging(t *testing.T) {
	for _, mode := range []contract.Mode{contract.ModeNAT, contract.ModeTProxy} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			lab.Need(t, "nft")
			n := lab.NewNet(t)
			n.Wire()
			// Before ours, so that the kernel comes by it first, and in the same family.
			n.Pod.Run("nft", "add table inet other; add chain inet other c; add chain inet other d")
			var many strings.Builder
			for i := range 100 {
				fmt.Fprintf(&many, "add rule inet other c tcp dport %d accept\n", i+1)
			}
			for i := range 400 { // more than the kernel lists at once
				n.Pod.Addr("lo", fmt.Sprintf("10.9.%d.%d/32", i/250, i%250+1))
			}
			c := Default(mode)
			c.PacketGuard = lab.PacketGuard(t)
			apply := func() error { return Apply(n.Pod.Path(), c) }
			if err := apply(); err != nil {
				t.Fatal(err)
			}
			var changes atomic.Int64
			stop := make(chan struct{})
			var changers sync.WaitGroup
			changer := func(change func() error) {
				changers.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
						}
						if err := change(); err != nil {
							t.Error(err)
							return
						}
						changes.Add(1)
					}
				})
			}
			changer(func() error {
				out, err := n.Pod.Try("nft", "flush chain inet other c\n"+many.String())
				if err != nil {
					err = fmt.Errorf("%w: %s", err, out)
				}
				return err
			})
			changer(func() error {
				return n.Pod.Do(func() error {
					lo, err := netlink.LinkByName("lo")
					if err != nil {
						return err
					}
					a, err := netlink.ParseAddr("127.9.9.9/32") // of no account to ADD
					if err != nil {
						return err
					}
					r := netlink.NewRule()
					r.Priority, r.Table, r.Mark = 100, 7, 7
					return errors.Join(netlink.AddrAdd(lo, a), netlink.RuleAdd(r), netlink.AddrDel(lo, a), netlink.RuleDel(r))
				})
			})
			f := results.Fault{Name: "dumps of netlink changed meanwhile", What: "ADDs and CHECKs, which can be tried again"}
			for range lab.Faults(10) {
				for name, verb := range map[string]func() error{
					"ADD": apply, "CHECK": func() error { return Check(n.Pod.Path(), c, nil) },
				} {
					f.Of++
					if err := verb(); err != nil {
						f.Lost++
						if !Transient(err) {
							t.Errorf("%s: %v", name, err)
						}
					}
				}
			}
			close(stop)
			changers.Wait()
			if err := Check(n.Pod.Path(), c, nil); err != nil {
				t.Error(err)
			}
			f.Injected = int(changes.Load())
			f.Report(t)
		})
	}
}

// TestConfirmed: what one reading alone finds is not reported, and what each finds is,
// after two; a pod that differs each time in another way differs.
func TestConfirmed(t *testing.T) {
	a, b := Drift{"a"}, Drift{"b"}
	for _, tt := range []struct {
		readings []Drift
		want     Drift
		reads    int
	}{
		{[]Drift{nil}, nil, 1},
		{[]Drift{a, nil}, nil, 2},
		{[]Drift{a, a}, a, 2},
		{[]Drift{a, b, b}, b, 3},
		{[]Drift{a, b, a, b, a}, a, mostTries},
	} {
		reads := 0
		got, err := confirmed(func() (Drift, error) {
			reads++
			return tt.readings[reads-1], nil
		})
		if !slices.Equal(got, tt.want) || err != nil || reads != tt.reads {
			t.Errorf("%v: %v, %v after %d readings", tt.readings, got, err, reads)
		}
	}
}
