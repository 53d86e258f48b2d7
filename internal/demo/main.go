// Command demo shows, on the real kernel and without a cluster, that a client's
// own address reaches an application behind the sidecar. `make demo` runs it.
//
// It makes a client, a node and three pods as network namespaces, attaches the
// pods through the CNI project's own plugins with ours chained to them, runs
// curl and nc, and compares what the client's socket says of itself with what
// the application says of its peer. Its exit status is 0 only if every row is
// as the mode promises. Whatever ends it, nothing of it stays on the machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/lab"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run returns the exit status: 0 if all is as promised, 1 if not, 2 for a wrong
// argument.
func run(args []string, stdout *os.File, stderr io.Writer) int {
	fs := flag.NewFlagSet("demo", flag.ContinueOnError)
	fs.SetOutput(stderr)
	bin := fs.String("bin", "bin", "`directory` with the project's programs, and in upstream/ the CNI project's")
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil || fs.NArg() > 0:
		return 2
	}
	if err := ready(*bin); err != nil {
		fmt.Fprintln(stderr, "demo:", err)
		return 1
	}

	// Never given back: a second Ctrl-C must not stop the tidying. A closed
	// terminal or pipe is no reason to leave anything behind either.
	ctx, _ := signal.NotifyContext(context.Background(),
		syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)

	d := &demo{screen: newScreen(stdout), bin: *bin}
	err := lab.Main(ctx, until(ctx, stderr), d.story)
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "\ndemo: interrupted; everything it made is removed")
		return 1
	case err != nil:
		fmt.Fprintln(stderr, "\ndemo:", err)
		return 1
	case d.broken > 0:
		fmt.Fprintf(stderr, "\ndemo: %d results are not as promised\n", d.broken)
		return 1
	}
	return 0
}

// until is w while ctx lasts: who interrupts does not want the programs' logs.
func until(ctx context.Context, w io.Writer) io.Writer {
	return writer(func(p []byte) (int, error) {
		if ctx.Err() != nil {
			return len(p), nil
		}
		return w.Write(p)
	})
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// packages are the Debian packages of the programs that the demo runs.
var packages = []struct{ program, pkg string }{
	{"curl", "curl"},
	{"ip", "iproute2"},
	{"ss", "iproute2"},
	{"nc", "netcat-openbsd"},
	{"nft", "nftables"},
	{"socat", "socat"},
	{"setpriv", "util-linux"},
}

// ready tells in one line what to do before the demo can run.
func ready(bin string) error {
	if os.Geteuid() != 0 {
		return errors.New("makes network namespaces and needs root: sudo make demo")
	}
	var lack, install []string
	for _, p := range packages {
		if _, err := lab.Look(p.program); err != nil || p.program == "nc" && !openBSD() {
			lack = append(lack, p.program)
			if !slices.Contains(install, p.pkg) {
				install = append(install, p.pkg)
			}
		}
	}
	if lack != nil {
		return fmt.Errorf("needs %s: apt install %s", strings.Join(lack, ", "), strings.Join(install, " "))
	}
	for _, p := range []string{
		contract.PluginType, "tproxy-proxy", "echo-server",
		"upstream/cnitool", "upstream/ptp", "upstream/host-local",
	} {
		if _, err := os.Stat(filepath.Join(bin, p)); err != nil {
			return fmt.Errorf("no %s in %s: make build upstream", p, bin)
		}
	}
	return nil
}

// openBSD tells whether nc is the one that can end its half of a connection.
func openBSD() bool {
	out, _ := exec.Command("nc", "-h").CombinedOutput()
	return strings.Contains(string(out), "-N")
}
