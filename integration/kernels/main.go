// Command kernels runs the tests that touch the kernel on other kernels than
// the running one: Debian's, in QEMU. See README.md.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "kernels:", err)
		os.Exit(1)
	}
}

// options are what the command line says.
type options struct {
	versions []string      // such as 6.1
	only     string        // for -test.run; all if empty
	limit    time.Duration // for one kernel
	logs     string        // directory of the guests' consoles and logs
	source   string        // directory of the project
	accel    []string      // of accelerators; chosen once for all kernels
}

func run(ctx context.Context, args []string, out, errOut io.Writer) error {
	var o options
	f := flag.NewFlagSet("kernels", flag.ContinueOnError)
	f.StringVar(&o.only, "run", "", "run only the tests that match the `regexp`, as go test's -run")
	f.DurationVar(&o.limit, "limit", 45*time.Minute, "end a kernel's run after this `time`")
	f.StringVar(&o.logs, "logs", "dist/kernels", "`directory` for the guests' consoles and logs")
	if err := f.Parse(args); err != nil {
		return err
	}
	if o.versions = f.Args(); len(o.versions) == 0 {
		return fmt.Errorf("no kernel given; for example: kernels 6.1 6.12")
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

	kernels := make([]kernel, len(o.versions))
	for i, version := range o.versions {
		if kernels[i], err = fetch(ctx, version); err != nil {
			return fmt.Errorf("linux %s: %w", version, err)
		}
	}
	o.accel = choose(ctx, kernels[0], accelerators, patience, errOut)

	// One processor each, as many at once as there are here: see README.md.
	results := make([]result, 0, len(halves)*len(kernels))
	var machines errgroup.Group
	machines.SetLimit(runtime.NumCPU())
	for i, version := range o.versions {
		for _, half := range halves {
			results = append(results, result{})
			r := &results[len(results)-1]
			machines.Go(func() error {
				*r = try(ctx, o, kernels[i], version, half, tests, filepath.Join(work, version+"-"+half))
				return nil
			})
		}
	}
	_ = machines.Wait()
	failed := 0
	for _, r := range results {
		r.print(out)
		if r.failed() {
			failed++
		}
	}
	printLeftOut(out)
	if failed > 0 {
		return fmt.Errorf("%d of %d machines failed; the guests' consoles and logs are in %s", failed, len(results), o.logs)
	}
	return nil
}

// try runs half of the tests on one kernel.
func try(ctx context.Context, o options, k kernel, version, half, tests, work string) (r result) {
	r.version, r.half, r.pkg = version, half, k.pkg
	start := time.Now()
	log, err := boot(ctx, o, k, version, half, tests, work)
	r.took = time.Since(start)
	r.sections, r.uname, r.err = parse(log)
	if err != nil {
		r.err = err
	}
	return r
}
