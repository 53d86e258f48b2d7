// Command soak makes millions of connections of every kind through the sidecar, in both
// modes and both families at once, with this project's own clients and with real ones,
// and compares what each of them saw with what it should see. `make soak` runs it.
//
//	client ── veth ── node ── veth ── pod: applications, sidecar      for each mode
//	ghosts ── veth ──┘
//
// Its exit status is 1 if one connection was wrong, and it says which. README.md has the
// kinds of connections and what is compared.
//
//	soak [flags]                    the soak
//	soak --page RELIABILITY.md      puts the report of the last run into a page
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/integration/traffic"
)

func main() {
	if ran, err := traffic.Child(os.Args[1:]); ran {
		exit(err)
	}
	exit(run(os.Args[1:], os.Stderr))
}

func exit(err error) {
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// options are what the command line says.
type options struct {
	bin   string        // the programs
	out   string        // the directory of the report
	took  time.Duration // of the traffic
	round time.Duration
	kinds *regexp.Regexp // of clients, by the names of their rows
}

func run(args []string, stderr io.Writer) error {
	fs := flag.NewFlagSet("soak", flag.ContinueOnError)
	fs.SetOutput(stderr)
	var o options
	fs.StringVar(&o.bin, "bin", "bin", "`directory` of the project's programs, and in upstream/ the CNI project's")
	fs.StringVar(&o.out, "out", filepath.Join("dist", "soak"), "`directory` of the report")
	minutes := fs.Float64("minutes", 20, "how long there is traffic; what vanished clients leave is waited for afterwards, four minutes at most")
	only := fs.String("kinds", "", "`regexp` of the rows to run, to look into one; all if empty")
	page := fs.String("page", "", "put the last report into this `file`, between its markers, and end")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *page != "" {
		return insert(*page, filepath.Join(o.out, reportName))
	}
	var err error
	if o.kinds, err = regexp.Compile(*only); err != nil {
		return err
	}
	o.took = time.Duration(*minutes * float64(time.Minute))
	o.round = min(o.took, time.Minute)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	return lab.Main(ctx, stderr, func(t lab.TB) { story(t, o) })
}
