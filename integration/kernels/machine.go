package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// boot runs half of the plan on a kernel in a machine of QEMU's and returns what it
// wrote. The console, with the kernel's own messages, goes to a file beside.
func boot(ctx context.Context, o options, k kernel, version, half, tests, work string) (log string, err error) {
	if err := errors.Join(os.MkdirAll(work, 0o755), os.MkdirAll(o.logs, 0o755)); err != nil {
		return "", err
	}
	initial, err := initrd(ctx, k)
	if err != nil {
		return "", err
	}
	initrdFile := filepath.Join(work, "initrd")
	if err := os.WriteFile(initrdFile, initial, 0o644); err != nil {
		return "", err
	}
	console, said := filepath.Join(o.logs, version+"-"+half+".console"), filepath.Join(o.logs, version+"-"+half+".log")

	ctx, cancel := context.WithTimeout(ctx, o.limit)
	defer cancel()
	args := append(machine(o.accel, k, console, append(slices.Clone(kernelArgs), "plan."+half)), "-m", "3072", "-initrd", initrdFile, "-serial", "file:"+said)
	for tag, path := range map[string]string{"host": "/", "modules": k.modules(), "tests": tests, "source": o.source} {
		args = append(args, "-virtfs", fmt.Sprintf("local,path=%s,mount_tag=%s,security_model=none,readonly=on,multidevs=remap", path, tag))
	}
	_, err = command(ctx, "", "qemu-system-x86_64", args...)
	if ctx.Err() != nil {
		err = fmt.Errorf("not done after %v", o.limit)
	}
	text, readErr := os.ReadFile(said)
	return string(text), errors.Join(err, readErr)
}

// machine are QEMU's arguments for a machine of one processor that starts the
// kernel, writes its console to a file and ends when the kernel does.
func machine(accel []string, k kernel, console string, kernelArgs []string) []string {
	return append(slices.Clone(accel), "-cpu", processor, "-smp", "1",
		"-display", "none", "-monitor", "none", "-no-reboot", "-nic", "none", "-nodefaults",
		"-serial", "file:"+console, "-kernel", k.image(), "-append", strings.Join(kernelArgs, " "))
}

// processor is a plain one: what the newer ones have beyond it, wider registers
// and a fifth level of page tables among it, takes longer to emulate than to do
// without. The exceptions are instructions that do the work of many.
const processor = "qemu64,+rdrand,+aes,+ssse3,+sse4.1,+sse4.2,+popcnt"

// kernelArgs are the kernel's command line.
var kernelArgs = []string{
	"console=ttyS0", "loglevel=4", "panic=-1", // an end, and not a machine that hangs

	// The rest saves an emulated processor work: randomized addresses, whose code
	// it would translate again, mitigations that this machine does not need, and
	// clocks. They were not measured one by one.
	"norandmaps", "mitigations=off", "init_on_alloc=0", "hardened_usercopy=off", "randomize_kstack_offset=off",
	"lsm=capability", "audit=0", "clearcpuid=rep_good", "transparent_hugepage=never",
	"tsc=reliable", "rcupdate.rcu_expedited=1",
}
