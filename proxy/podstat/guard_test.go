package podstat

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/bpf"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
	"github.com/tproxy-cni/tproxy-cni/internal/lacks"
)

// TestReadGuard: the guard that is in force, in both modes; where the filter is gone it
// is none.
func TestReadGuard(t *testing.T) {
	defer func() { lacks.Features = "" }()
	for _, mode := range []contract.Mode{contract.ModeNAT, contract.ModeTProxy} {
		n := lab.NewNet(t)
		n.Wire()
		is := func(when string, want contract.Guard) {
			t.Helper()
			var got contract.Guard
			if err := n.Pod.Do(func() (err error) { got, err = ReadGuard(); return err }); err != nil || got != want {
				t.Errorf("%s: %q %v, want %q", when, got, err, want)
			}
		}
		is("not programmed", "")
		c := intercept.Default(mode)
		c.PacketGuard = contract.PacketGuardBestEffort
		var whole contract.Guard = contract.GuardNFT
		if !lab.Has(t, lab.EgressHook) {
			whole = contract.GuardTC
		}
		for _, tt := range []struct {
			lacks string
			want  contract.Guard
		}{{"", whole}, {lacks.Egress, contract.GuardTC}, {"", whole}, {lacks.Egress + "," + lacks.TC, contract.GuardNone}} {
			lacks.Features = tt.lacks
			if err := intercept.Apply(n.Pod.Path(), c); err != nil {
				t.Fatal(err)
			}
			is("lacks "+tt.lacks, tt.want)
			if tt.want == contract.GuardTC {
				n.Pod.Run("tc", "filter", "del", "dev", "eth0", "egress")
				is("without the filter", contract.GuardNone)
				if err := n.Pod.Do(inChain5); err != nil {
					t.Fatal(err)
				}
				is("with it in another chain", contract.GuardNone)
			}
		}
	}
}

// inChain5 adds a filter of the guard's name where no packet comes.
func inChain5() error {
	fd, err := bpf.LoadClassifier(contract.Table, []bpf.Instruction{{Code: unix.BPF_ALU64 | unix.BPF_MOV}, {Code: unix.BPF_JMP | unix.BPF_EXIT}})
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return lab.FilterInChain5("eth0", fd)
}
