package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// accelerators are QEMU's arguments for KVM and for emulation, the faster one first.
// Emulation works everywhere.
var accelerators = [][]string{{"-accel", "kvm"}, {"-accel", "tcg,thread=multi,tb-size=512"}}

// patience is how long a kernel may take to its first console output: 1 s with KVM,
// 11 s emulated on a busy machine.
const patience = 30 * time.Second

// chooseEach chooses for each kernel. An accelerator that is of no use to one of them is
// not tried with those that follow: to wait for it once is enough.
func chooseEach(ctx context.Context, kernels []kernel, accels [][]string, patience time.Duration, errOut io.Writer) (chosen [][]string) {
	for _, k := range kernels {
		a := choose(ctx, k, accels, patience, errOut)
		accels = accels[slices.IndexFunc(accels, func(b []string) bool { return slices.Equal(a, b) }):]
		chosen = append(chosen, a)
	}
	return chosen
}

// choose returns the first accelerator under which a kernel writes to its console,
// or the last, and reports the ones that it rejected. That /dev/kvm exists and opens
// proves nothing: where nested virtualization is broken the processor spins in the
// firmware forever, without output or error.
func choose(ctx context.Context, k kernel, accels [][]string, patience time.Duration, errOut io.Writer) []string {
	last := accels[len(accels)-1]
	for _, a := range accels[:len(accels)-1] {
		err := hear(ctx, k, a, patience)
		if err == nil {
			return a
		}
		fmt.Fprintf(errOut, "kernels: %s does not work, processors are emulated from Linux %s on: %v\n", strings.Join(a, " "), k.version, err)
	}
	return last
}

// hear starts a kernel without an init: its panic is written to the console and
// ends the machine.
func hear(ctx context.Context, k kernel, accel []string, patience time.Duration) error {
	dir, err := os.MkdirTemp("", "tproxy-cni-kernels-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	console := filepath.Join(dir, "console")
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var said strings.Builder
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", machine(accel, k, console, []string{"console=ttyS0", "panic=-1"})...)
	cmd.Stderr = &said
	err = cmd.Run()
	if text, _ := os.ReadFile(console); len(text) > 0 {
		return nil
	}
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = fmt.Errorf("no console output for %v", patience)
	case err == nil:
		err = errors.New("the kernel ended without console output")
	}
	return fmt.Errorf("%w%s", err, complaint(said.String()))
}

// complaint returns QEMU's own errors, without its warnings and the register dump
// that follows an internal error.
func complaint(said string) (c string) {
	for line := range strings.Lines(said) {
		if !strings.Contains(line, ": warning: ") && !strings.Contains(line, "=") {
			c += "; " + strings.TrimSpace(line)
		}
	}
	return c
}
