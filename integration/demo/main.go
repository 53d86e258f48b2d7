// Command demo shows, on the real kernel and without a cluster, that a client's
// own address reaches an application behind the sidecar. `make demo` runs it.
//
// It makes a client, a node and three pods as network namespaces, attaches the
// pods with the CNI project's plugins and ours chained to them, runs curl and nc,
// and compares the local address of the client's socket with the peer address that
// the application reports. Its exit status is 0 only if every row is as the mode
// promises. However it ends, it leaves nothing on the machine.
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

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run returns the exit status: 0 if all is as promised, 1 if not, 2 for wrong
// arguments.
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

	// Never reset: a second Ctrl-C must not stop the cleanup, and neither must a
	// closed terminal or pipe.
	ctx, _ := signal.NotifyContext(context.Background(),
		syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)

	d := &demo{screen: newScreen(stdout), bin: *bin}
	// The programs' logs are shown after a failure, but not after Ctrl-C, which may
	// look like a program's failure until the signal arrives here.
	var log lab.Output
	err := lab.Main(ctx, &log, d.story)
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "\ndemo: interrupted; everything it made is removed")
		return 1
	case err != nil:
		fmt.Fprintf(stderr, "%s\ndemo: %v\n", log.String(), err)
		return 1
	case d.broken > 0:
		fmt.Fprintf(stderr, "\ndemo: %d results are not as promised\n", d.broken)
		return 1
	}
	return 0
}

// tools are the machine's programs that the demo runs. `make demo` installs them.
var tools = []string{"curl", "ip", "ss", "nc", "nft", "socat", "setpriv"}

// ready reports what is missing before the demo can run, in one line.
func ready(bin string) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root to create network namespaces: sudo make demo")
	}
	lack := slices.DeleteFunc(slices.Clone(tools), func(p string) bool {
		_, err := lab.Look(p)
		return err == nil && (p != "nc" || openBSD())
	})
	if len(lack) > 0 {
		return fmt.Errorf("needs %s (nc: OpenBSD's): make demo installs them on Debian", strings.Join(lack, ", "))
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

// openBSD reports whether nc is OpenBSD's, which can half-close a connection (-N).
func openBSD() bool {
	out, _ := exec.Command("nc", "-h").CombinedOutput()
	return strings.Contains(string(out), "-N")
}
