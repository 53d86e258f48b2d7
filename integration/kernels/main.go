// Command kernels runs the tests that touch the kernel on other kernels than
// the running one: Debian's, in QEMU. See README.md.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "kernels:", err)
		os.Exit(1)
	}
}

// options are what the command line says.
type options struct {
	versions []string      // such as 6.1
	only     string        // for -test.run; all if empty
	limit    time.Duration // for one kernel
	logs     string        // folder of what the guests wrote
	source   string        // folder of the project
}

func run(ctx context.Context, args []string, out io.Writer) error {
	var o options
	f := flag.NewFlagSet("kernels", flag.ContinueOnError)
	f.StringVar(&o.only, "run", "", "run only the tests that match, as go test's -run")
	f.DurationVar(&o.limit, "limit", 30*time.Minute, "end a kernel's run after this `time`")
	f.StringVar(&o.logs, "logs", "dist/kernels", "`folder` for what the guests write")
	if err := f.Parse(args); err != nil {
		return err
	}
	if o.versions = f.Args(); len(o.versions) == 0 {
		return fmt.Errorf("which kernels? Such as: kernels 6.1 6.12")
	}

	work, err := os.MkdirTemp("", "tproxy-cni-kernels-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if o.source, err = os.Getwd(); err != nil {
		return err
	}
	tests := filepath.Join(work, "tests")
	if err := compile(ctx, o.source, tests, o.only); err != nil {
		return err
	}

	// One processor each, all at once: see README.md.
	results := make([]result, len(o.versions))
	var machines sync.WaitGroup
	for i, version := range o.versions {
		machines.Go(func() { results[i] = try(ctx, o, version, tests, filepath.Join(work, version)) })
	}
	machines.Wait()
	failed := 0
	for _, r := range results {
		r.print(out)
		if r.failed() {
			failed++
		}
	}
	printLeftOut(out)
	if failed > 0 {
		return fmt.Errorf("%d of %d kernels failed; what the guests wrote is in %s", failed, len(results), o.logs)
	}
	return nil
}

// try runs the tests on one kernel.
func try(ctx context.Context, o options, version, tests, work string) (r result) {
	r.version = version
	k, err := fetch(ctx, version)
	if err != nil {
		r.err = err
		return r
	}
	r.pkg = k.pkg
	start := time.Now()
	log, err := boot(ctx, o, k, version, tests, work)
	r.took = time.Since(start)
	r.sections, r.uname, r.err = parse(log)
	if err != nil {
		r.err = err
	}
	return r
}

// command runs a program; its error tells what the program said.
func command(ctx context.Context, dir, name string, args ...string) (string, error) {
	var out, said strings.Builder
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &said
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, said.String())
	}
	return out.String(), nil
}
