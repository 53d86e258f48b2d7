// Command bench measures tproxy-proxy against no proxy at all, HAProxy and
// nginx, in network namespaces on one machine. README.md says how to read it.
//
//	bench [flags]      the benchmark
//	bench serve PORT   the application in a pod
//	bench load SPEC    a client; prints a traffic.Result
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/integration/traffic"
)

func main() {
	err := run(os.Args[1:])
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if ran, err := traffic.Child(args); ran {
		return err
	}
	o, err := parseOptions(args)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return lab.Main(ctx, os.Stderr, func(t lab.TB) { story(t, o) })
}
