package main

import (
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// What a guest of a few bytes does, in 32-bit code.
var (
	// mov dx,0x3f8; mov al,'!'; out dx,al; then a fault without a handler, which resets the machine
	speaks = []byte{0x66, 0xba, 0xf8, 0x03, 0xb0, '!', 0xee, 0x0f, 0x01, 0x1d, 0, 0, 0, 0, 0xcc}
	// a fault without a handler
	ends = speaks[7:]
	// cli; hlt; and again
	silent = []byte{0xfa, 0xf4, 0xeb, 0xfc}
)

// guest is a kernel of this code, in the oldest form that QEMU starts: multiboot.
func guest(t *testing.T, code []byte) kernel {
	t.Helper()
	const magic, hasAddresses, at, header = 0x1badb002, 1 << 16, 0x100000, 32
	end := uint32(at + header + len(code))
	var image []byte
	for _, word := range []uint32{magic, hasAddresses, ^uint32(magic+hasAddresses) + 1, at, at, end, end, at + header} {
		image = binary.LittleEndian.AppendUint32(image, word)
	}
	k := kernel{dir: t.TempDir(), release: "test"}
	if err := os.MkdirAll(filepath.Dir(k.image()), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(k.image(), append(image, code...), 0o644); err != nil {
		t.Fatal(err)
	}
	return k
}

// TestChoose: an accelerator under which a guest does not speak is passed over,
// aloud. QEMU is the real one; what is not of use, be it KVM where it is broken,
// is a machine that never runs, or none at all.
func TestChoose(t *testing.T) {
	lab.Need(t, "qemu-system-x86_64")
	software := accelerators[len(accelerators)-1]
	paused := append(slices.Clone(software), "-S")
	last := []string{"-accel", "the-last"}
	const long = time.Hour // is not waited for: the machine ends
	for name, tt := range map[string]struct {
		code     []byte
		accel    []string
		patience time.Duration
		want     []string
		said     []string
	}{
		"speaks":                {speaks, software, long, software, nil},
		"spins":                 {silent, software, time.Second, last, []string{"-accel tcg", "emulated", "no console output for 1s"}},
		"never runs":            {speaks, paused, time.Second, last, []string{"-S", "emulated", "no console output for 1s"}},
		"ends without a word":   {ends, software, long, last, []string{"ended without console output"}},
		"QEMU does not take it": {speaks, []string{"-accel", "none-such"}, long, last, []string{"-accel none-such does not work", "exit status 1", "invalid accelerator"}},
	} {
		t.Run(name, func(t *testing.T) {
			var said strings.Builder
			got := choose(context.Background(), guest(t, tt.code), [][]string{tt.accel, last}, tt.patience, &said)
			if !slices.Equal(got, tt.want) {
				t.Errorf("%v is chosen, want %v", got, tt.want)
			}
			if (said.Len() == 0) != (tt.said == nil) || strings.Count(said.String(), "\n") > 1 {
				t.Errorf("not one line: %q", &said)
			}
			for _, s := range tt.said {
				if !strings.Contains(said.String(), s) {
					t.Errorf("no %q in %q", s, &said)
				}
			}
		})
	}
}

// TestChooseEach: what did not work with a kernel is not tried with the next ones; what
// did is tried with each.
func TestChooseEach(t *testing.T) {
	lab.Need(t, "qemu-system-x86_64")
	software, last := accelerators[len(accelerators)-1], []string{"-accel", "the-last"}
	works, mute := guest(t, speaks), guest(t, ends)
	var said strings.Builder
	got := chooseEach(context.Background(), []kernel{works, works, mute, works}, [][]string{software, last}, time.Hour, &said)
	if want := [][]string{software, software, last, last}; !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("%v are chosen, want %v", got, want)
	}
	if strings.Count(said.String(), "does not work") != 1 {
		t.Errorf("said %q", &said)
	}
}

// TestComplaint: as QEMU writes it.
func TestComplaint(t *testing.T) {
	const said = `qemu-system-x86_64: warning: host doesn't support requested feature: CPUID.01H:ECX.pni [bit 0]
KVM internal error. Suberror: 1
emulation failure
EAX=00000000 EBX=00000000 ECX=00000000 EDX=00000663
CS =f000 ffff0000 0000ffff 00009b00
`
	if got, want := complaint(said), "; KVM internal error. Suberror: 1; emulation failure"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
