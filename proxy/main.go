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
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/drain"
	"github.com/tproxy-cni/tproxy-cni/internal/version"
	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
)

func main() {
	if os.Getenv("GOGC") == "" {
		// Only a growing number of connections leaves garbage: collected early, it
		// makes an idle connection as small as can be.
		debug.SetGCPercent(50)
	}
	os.Exit(run(os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

// run returns the exit status. The first argument may name a command; without one it
// is the sidecar.
func run(args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	if c, ok := commandOf(args); ok {
		return c.run(args[1:], getenv, stdout, stderr)
	}
	return runSidecar(args, getenv, stdout, stderr)
}

// runSidecar returns the exit status: 0 after an orderly shutdown, 2 for a bad
// setting, 1 for any other failure.
func runSidecar(args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	c, err := parseConfig(args, getenv, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprintln(stdout, commandsHelp())
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "tproxy-proxy: %v\n", err)
		return 2
	case c.version:
		fmt.Fprintln(stdout, "tproxy-proxy", version.String())
		return 0
	}
	from, err := c.predecessor()
	if err == nil && from.asks {
		err = from.Agree(stdout)
	}
	switch {
	case err != nil:
		fmt.Fprintf(stderr, "tproxy-proxy: cannot take over: %v\n", err)
		return 1
	case from.asks:
		return 0
	}
	log, level := c.log.NewVariable(stderr)

	ctx, kill, stop := drain.Signals(log, c.drain)
	defer stop()

	if err := serve(ctx, kill, log, level, c, from); err != nil {
		log.Error("cannot serve", "err", err)
		return 1
	}
	drain.LogBounded(func() { log.Info("stopped") })
	return 0
}

// serve opens the listeners, or takes them over with all connections, and serves until ctx
// ends and the connections have.
func serve(ctx, kill context.Context, log *slog.Logger, level *slog.LevelVar, c config, from predecessor) error {
	signals, ending := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(ending, unix.SIGTERM, unix.SIGINT)
	signal.Notify(signals, unix.SIGUSR2)
	files, err := raiseNoFile()
	if err != nil {
		return err
	}
	var ln listeners
	if from.Reader != nil {
		ln, err = inheritListeners(&from.State)
	} else {
		ln, err = openListeners(ctx, c)
	}
	if err != nil {
		return err
	}
	loops := c.loops
	if loops == 0 {
		loops = loopsFor(runtime.GOMAXPROCS(0))
	}
	// One more than the loops, for everything else. While it is idle the scheduler
	// does not take a loop's processor away in each wait.
	runtime.GOMAXPROCS(loops + 1)
	p, err := newProxy(log, c.mode, ln.fd, files, loops)
	if err != nil {
		return err
	}
	p.level, p.ending = level, ending
	if err := p.configure(c, ln); err != nil {
		return err
	}
	listening := func() {
		if c.trusted.all() {
			log.Warn("every client may pose as any other: --proxy-protocol-from has a CIDR of all addresses")
		}
		log.Info("listening", "mode", c.mode, "addr", p.pod.Addr, "admin", p.admin,
			"uid", os.Getuid(), "files", files, "loops", loops, "version", version.String())
	}
	if from.Reader == nil {
		listening()
	} else if err := p.succeed(from, listening); err != nil {
		return err
	}
	if ln.front != nil {
		defer ln.front.Remove() // not before: a holder may still have it
	}
	adminCtx, stop := context.WithCancel(context.Background())
	defer stop()
	go p.serveAdmin(adminCtx)
	go p.watchPrepared(ctx)
	go p.warnOfInterceptors(ctx)
	go p.awaitPorts(ctx)

	next := successors{signals: signals, handOver: p.handOver}
	if c.hold != "" {
		next.leave = func() { p.leave(c.hold) }
	}
	p.serve(ctx, kill, c.drain, next)
	return nil
}

// configure applies the settings, and has the proxy serve the listeners that newProxy does
// not know.
func (p *proxy) configure(c config, ln listeners) error {
	for _, l := range p.loops {
		l.conns.sweep = sweep{logOpen: c.logOpen, halfClosed: c.half}
	}
	p.admin, p.adminLn, p.adminPort = sock.AddrPort(ln.admin.Addr()), ln.admin, p.adminServer(ln.admin)
	p.trusted = c.trusted
	if ln.front == nil {
		return nil
	}
	p.front, p.fronts = ln.front, fronts{uidsFor(uint32(c.front.uid)), c.front.to}
	return p.listen(ln.front.FD)
}
