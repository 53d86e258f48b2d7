// tproxy-install puts the tproxy-cni plugin on a node and keeps it in the
// node's CNI chain, takes it out again, and programs a single pod where
// installing a plugin is not possible.
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
	"syscall"

	"github.com/tproxy-cni/tproxy-cni/internal/printable"
	"github.com/tproxy-cni/tproxy-cni/internal/version"
)

func main() {
	os.Exit(run(world{args: os.Args[1:], getenv: os.Getenv, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}))
}

// commands by name. SIGTERM and SIGINT end the context of each.
var commands = []struct {
	name, usage string
	run         func(context.Context, *slog.Logger, world, config) error
}{
	{"install", "put the plugin on this node and keep it in the CNI chain", install},
	{"uninstall", "take the plugin out of the CNI chain, then off this node", uninstall},
	{"setup", "program this pod's own network namespace, from an init container", setup},
	{"explain", "say what happens to a pod's connections, and what to do", explainPod},
	{"status", "show this node and the pods on it that ask for interception", showStatus},
	{"preflight", "print what this kernel lacks for each mode, as JSON", preflightChild},
	{"inject", "add the sidecar to the pods in files, or bring it up to date", injectFiles},
	{"uninject", "take the sidecar out of the pods in files", uninjectFiles},
	{"version", "print the version", func(_ context.Context, _ *slog.Logger, w world, _ config) error {
		_, err := fmt.Fprintln(w.stdout, "tproxy-install", version.String())
		return err
	}},
}

// status is the error of a command that has said what is wrong, with its exit status.
type status int

func (s status) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// run returns the exit status: 0 on success or after SIGTERM, 2 for a bad command
// line, 1 for every other error but a status.
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
		var said status
		if err := c.run(ctx, log, w, conf); errors.As(err, &said) {
			return int(said)
		} else if err != nil {
			log.Error(c.name, "err", printable.Line(err.Error()))
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
	fmt.Fprintf(w.stderr, "tproxy-install: unknown command %s\n", printable.Quote(w.args[0]))
	usage(w.stderr)
	return 2
}

func usage(out io.Writer) {
	fmt.Fprintln(out, "usage: tproxy-install COMMAND [FLAGS]   (COMMAND --help lists the flags)")
	for _, c := range commands {
		fmt.Fprintf(out, "  %-10s %s\n", c.name, c.usage)
	}
}
