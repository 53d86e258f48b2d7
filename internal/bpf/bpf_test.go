package bpf

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// TestLoadClassifier: the kernel takes a program, and says what is wrong with another.
func TestLoadClassifier(t *testing.T) {
	lab.Need(t)
	exit := Instruction{Code: unix.BPF_JMP | unix.BPF_EXIT}
	fd, err := LoadClassifier("a_name_that_is_too_long", []Instruction{{Code: unix.BPF_ALU64 | unix.BPF_MOV, Imm: -1}, exit})
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Close(fd); err != nil {
		t.Error(err)
	}
	if _, err := LoadClassifier("x", []Instruction{exit}); err == nil || err.Error() != "bpf: permission denied" { // r0 has no value
		t.Errorf("a program without a result: %v", err)
	}
}
