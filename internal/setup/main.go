// Command setup installs the programs that a target of the Makefile needs:
//
//	setup [-skip] target [other target whose needs count, too]...
//
// On Debian it installs the missing packages and nothing else, and starts none of
// their services, now or at the next boot. On other systems it names what to
// install.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "setup:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, errOut io.Writer) error {
	f := flag.NewFlagSet("setup", flag.ContinueOnError)
	skip := f.Bool("skip", false, "without root, print what is missing and continue")
	if err := f.Parse(args); err != nil {
		return err
	}
	target := f.Arg(0)
	rows := needed(f.Args())
	if len(rows) == 0 {
		return fmt.Errorf("internal/setup/list.txt has no target %q", f.Args())
	}
	_, err := exec.LookPath("apt-get")
	debian, root := err == nil, os.Geteuid() == 0
	if debian && root {
		unlock, err := lock(ctx, errOut)
		if err != nil {
			return err
		}
		defer unlock()
	}
	missing := lacking(rows, debian)
	packages := names(missing, func(r row) string { return r.pkg })
	programs := names(missing, func(r row) string { return r.program })
	switch {
	case len(missing) == 0:
		return nil
	case debian && root:
		fmt.Fprintf(errOut, "setup: installing for make %s: %s\n", target, packages)
		return install(ctx, strings.Fields(packages))
	case *skip && !root:
		fmt.Fprintf(errOut, "setup: not root: tests that need root or these programs are skipped: %s\n", programs)
		return nil
	case debian:
		return fmt.Errorf("make %s needs %s, and root to install them: sudo make %[1]s", target, packages)
	default:
		return fmt.Errorf("make %s needs %s: install them (in Debian's packages: %s) and run make again",
			target, programs, packages)
	}
}
