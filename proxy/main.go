package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/drain"
	"github.com/tproxy-cni/tproxy-cni/internal/version"
)

func main() {
	if os.Getenv("GOGC") == "" {
		// Only a growing number of connections leaves garbage behind: it may be
		// collected at once, and an idle connection is as small as it can be.
		debug.SetGCPercent(50)
	}
	os.Exit(run(os.Args[1:], os.Getenv, dropCapabilities, os.Stdout, os.Stderr))
}

// run returns the exit status: 0 for an end in order, 2 for a bad setting, 1
// for what else keeps the proxy from working. drop gives up the process's
// capabilities.
func run(args []string, getenv func(string) string, drop func() error, stdout, stderr io.Writer) int {
	c, err := parseConfig(args, getenv, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "tproxy-proxy: %v\n", err)
		return 2
	case c.version:
		fmt.Fprintln(stdout, "tproxy-proxy", version.String())
		return 0
	}
	log := c.log.New(stderr)

	ctx, kill, stop := drain.Signals(log, c.drain)
	defer stop()

	if err := serve(ctx, kill, log, c, drop); err != nil {
		log.Error("cannot serve", "err", err)
		return 1
	}
	drain.Say(func() { log.Info("ended") })
	return 0
}

// serve opens the listeners and works until ctx ends and the connections have.
func serve(ctx, kill context.Context, log *slog.Logger, c config, drop func() error) error {
	files, err := raiseNoFile()
	if err != nil {
		return err
	}
	ln, err := privileged(func() (*net.TCPListener, error) {
		if c.mode == contract.ModeTProxy {
			return listen(ctx, c.addr, transparent)
		}
		return listen(ctx, c.addr)
	}, drop)
	if err != nil {
		return err
	}
	fd, err := detach(ln)
	if err != nil {
		return err
	}
	adminLn, err := listen(ctx, c.admin)
	if err != nil {
		return fmt.Errorf("admin: %w", err)
	}
	loops := c.loops
	if loops == 0 {
		loops = loopsFor(runtime.GOMAXPROCS(0))
	}
	// One more than the loops: it has what else there is to do, and while it has
	// nothing the scheduler does not take a loop's processor away for each wait.
	runtime.GOMAXPROCS(loops + 1)
	p, err := newProxy(log, c.mode, fd, files, loops)
	if err != nil {
		return err
	}
	adminCtx, end := context.WithCancel(context.Background())
	defer end()
	go serveAdmin(adminCtx, log, adminLn, p)
	go p.awaitPrepared(ctx)

	log.Info("listening", "mode", c.mode, "addr", p.addr, "admin", adminLn.Addr(),
		"uid", os.Getuid(), "files", files, "loops", loops, "version", version.String())
	p.serve(ctx, kill, c.drain)
	return nil
}
