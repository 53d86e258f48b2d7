// tproxy-install puts the tproxy-cni plugin on a node and keeps it in the
// node's CNI chain, takes it out again, and programs a single pod where no
// plugin may be installed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tproxy-cni/tproxy-cni/install/inject"
	"github.com/tproxy-cni/tproxy-cni/internal/version"
)

// world is what a command sees of the outside.
type world struct {
	args           []string
	getenv         func(string) string
	stdin          io.Reader
	stdout, stderr io.Writer

	// Tests set what is below. before is disk's; timer is the longest time
	// between two looks at the node, recheck if zero.
	before func(op, path string) error
	timer  time.Duration
}

func main() {
	os.Exit(run(world{args: os.Args[1:], getenv: os.Getenv, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}))
}

// commands by name. Each gets a context that SIGTERM and SIGINT end.
var commands = []struct {
	name, usage string
	run         func(context.Context, *slog.Logger, world, config) error
}{
	{"install", "put the plugin on this node and keep it in the CNI chain", install},
	{"uninstall", "take the plugin out of the CNI chain, then off this node", uninstall},
	{"setup", "program this pod's own network namespace, from an init container", setup},
	{"preflight", "tell what this kernel lacks for each mode", preflightChild},
	{"inject", "add the sidecar to the pods in a file", injectFile},
	{"version", "print the version", func(_ context.Context, _ *slog.Logger, w world, _ config) error {
		_, err := fmt.Fprintln(w.stdout, "tproxy-install", version.String())
		return err
	}},
}

// run returns the exit status: 0 for an end in order, 2 for a bad command
// line, 1 for what else went wrong.
func run(w world) int {
	if len(w.args) == 0 {
		usage(w.stderr)
		return 2
	}
	for _, c := range commands {
		if c.name != w.args[0] {
			continue
		}
		conf, err := parseConfig(c.name, w)
		switch {
		case errors.Is(err, flag.ErrHelp):
			return 0
		case err != nil:
			fmt.Fprintf(w.stderr, "tproxy-install %s: %v\n", c.name, err)
			return 2
		}
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		log := conf.log.New(w.stderr)
		if err := c.run(ctx, log, w, conf); err != nil {
			log.Error(c.name, "err", err)
			return 1
		}
		return 0
	}
	switch w.args[0] {
	case "-h", "--help", "help":
		usage(w.stdout)
		return 0
	case "--version":
		return run(world{args: []string{"version"}, getenv: w.getenv, stdout: w.stdout, stderr: w.stderr})
	}
	fmt.Fprintf(w.stderr, "tproxy-install: unknown command %q\n", w.args[0])
	usage(w.stderr)
	return 2
}

// injectFile writes the file with the sidecar added to stdout, and nothing if
// there is an error.
func injectFile(_ context.Context, _ *slog.Logger, w world, c config) error {
	in := w.stdin
	if c.file != "-" {
		f, err := os.Open(c.file)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	return inject.Inject(in, w.stdout, inject.Options{Mode: c.settings["mode"], Image: c.image})
}

func usage(out io.Writer) {
	fmt.Fprintln(out, "usage: tproxy-install COMMAND [FLAGS]   (COMMAND --help lists the flags)")
	for _, c := range commands {
		fmt.Fprintf(out, "  %-10s %s\n", c.name, c.usage)
	}
}

// self is this program's own file. The plugin lies beside it.
func self() (path, dir string, err error) {
	path, err = os.Executable()
	return path, filepath.Dir(path), err
}
