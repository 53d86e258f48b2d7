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
	"slices"
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
	work     string        // directory of this run
	tests    string        // directory of the test binaries, below work
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
		return fmt.Errorf("no kernel given; for example: kernels 5.10 newest")
	}

	var err error
	if o.work, err = os.MkdirTemp("", "tproxy-cni-kernels-"); err != nil {
		return err
	}
	defer os.RemoveAll(o.work)
	if o.source, err = os.Getwd(); err != nil {
		return err
	}
	o.tests = filepath.Join(o.work, "tests")
	plan, err := compile(ctx, o.source, o.tests, o.only)
	if err != nil {
		return err
	}

	kernels := make([]kernel, len(o.versions))
	for i, version := range o.versions {
		if kernels[i], err = fetch(ctx, version); err != nil {
			return fmt.Errorf("linux %s: %w", version, err)
		}
	}
	accels := chooseEach(ctx, kernels, accelerators, patience, errOut)
	results := testEach(ctx, o, plan, kernels, accels)

	failed := 0
	for _, r := range results {
		r.print(out)
		if r.failed() {
			failed++
		}
	}
	printLeftOut(out)
	if failed > 0 {
		return fmt.Errorf("%d of %d kernels failed; the guests' consoles and logs are in %s", failed, len(results), o.logs)
	}
	return nil
}

// testEach runs the halves of the plan on each kernel. A machine has one processor, and
// as many run at once as there are here: see README.md.
func testEach(ctx context.Context, o options, plan map[string][]step, kernels []kernel, accels [][]string) []result {
	results := make([]result, len(kernels))
	var machines errgroup.Group
	machines.SetLimit(runtime.NumCPU())
	for i, k := range kernels {
		results[i] = result{k, make([]half, len(halves))}
		emulated := slices.Equal(accels[i], accelerators[len(accelerators)-1])
		for j, name := range halves {
			machines.Go(func() error {
				results[i].halves[j] = try(name, plan[name], emulated, func(name string, steps []step) (string, error) {
					return boot(ctx, o, k, accels[i], k.version+"-"+name, steps)
				})
				return nil
			})
		}
	}
	_ = machines.Wait()
	return results
}
