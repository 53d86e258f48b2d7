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

// boot runs the steps on a kernel in a machine of QEMU's and returns what it wrote.
// That, and the console with the kernel's own messages, go to files of that name, too.
func boot(ctx context.Context, o options, k kernel, accel []string, name string, steps []step) (log string, err error) {
	initial, err := initrd(ctx, k, planText(steps), environment(o.source, k.version))
	if err != nil {
		return "", err
	}
	initrdFile := filepath.Join(o.work, name+".initrd")
	if err := errors.Join(os.MkdirAll(o.logs, 0o755), os.WriteFile(initrdFile, initial, 0o644)); err != nil {
		return "", err
	}
	console, said := filepath.Join(o.logs, name+".console"), filepath.Join(o.logs, name+".log")

	ctx, cancel := context.WithTimeout(ctx, o.limit)
	defer cancel()
	args := append(machine(accel, k, console, kernelArgs), "-m", "3072", "-initrd", initrdFile, "-serial", "file:"+said)
	for tag, path := range map[string]string{"host": "/", "modules": k.modules(), "tests": o.tests, "source": o.source} {
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
