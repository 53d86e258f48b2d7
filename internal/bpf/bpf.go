// Package bpf loads a small program of eBPF into the kernel: one system call that
// golang.org/x/sys lacks, with unsafe. The instructions are the caller's.
package bpf

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Instruction is the kernel's struct bpf_insn (linux/bpf.h).
type Instruction struct {
	Code     uint8
	Dst, Src uint8 // registers
	Off      int16
	Imm      int32
}

// encode is the instruction as this machine's kernel has it, 8 bytes.
func (i Instruction) encode(b []byte) []byte {
	registers := i.Src<<4 | i.Dst
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 { // big endian has its bit fields the other way round
		registers = i.Dst<<4 | i.Src
	}
	b = append(b, i.Code, registers)
	b = binary.NativeEndian.AppendUint16(b, uint16(i.Off))
	return binary.NativeEndian.AppendUint32(b, uint32(i.Imm))
}

// attr is the beginning of the kernel's union bpf_attr for BPF_PROG_LOAD.
type attr struct {
	kind, count        uint32
	instructions       *byte
	license            *byte
	logLevel, logSize  uint32
	logBuf             uint64
	kernVersion, flags uint32
	name               [unix.BPF_OBJ_NAME_LEN]byte
}

// LoadClassifier loads a program of type BPF_PROG_TYPE_SCHED_CLS for tc and returns its
// descriptor, which the caller closes; what it is attached to keeps the program. The
// name is cut to 15 bytes. It needs CAP_BPF and CAP_NET_ADMIN in the first user
// namespace (before Linux 5.8 CAP_SYS_ADMIN). The error is a *os.SyscallError; EPERM
// also where before Linux 5.11 RLIMIT_MEMLOCK is used up and cannot be raised.
func LoadClassifier(name string, program []Instruction) (fd int, err error) {
	fd, err = load(name, program)
	if errors.Is(err, unix.EPERM) {
		// Before 5.11 each program counts against the limit of the user, not of
		// the process: the pods' share one. Raising it needs CAP_SYS_RESOURCE.
		all := &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
		if unix.Setrlimit(unix.RLIMIT_MEMLOCK, all) == nil {
			fd, err = load(name, program)
		}
	}
	return fd, err
}

func load(name string, program []Instruction) (int, error) {
	var code []byte
	for _, i := range program {
		code = i.encode(code)
	}
	license := []byte("Apache-2.0\x00")
	a := attr{kind: unix.BPF_PROG_TYPE_SCHED_CLS, count: uint32(len(program)), instructions: &code[0], license: &license[0]}
	copy(a.name[:len(a.name)-1], name)
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&a)), unsafe.Sizeof(a))
	runtime.KeepAlive(code)
	runtime.KeepAlive(license)
	if errno != 0 {
		return -1, os.NewSyscallError("bpf", errno)
	}
	return int(fd), nil
}
