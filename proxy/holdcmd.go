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
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/drain"
	"github.com/tproxy-cni/tproxy-cni/internal/flags"
	"github.com/tproxy-cni/tproxy-cni/proxy/handover"
	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
)

// runHold is the command hold: it keeps a sidecar's connections open while its container
// is restarted. It runs in a container of its own.
func runHold(args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	var path string
	var most time.Duration
	var l flags.Log
	s := flags.New("TPROXY_", "tproxy-proxy hold keeps what a sidecar with --hold has, connections and listeners, from that one's end to the start of the next. "+
		"It must run as the sidecar's user, in another container of the pod.")
	s.Add("hold", "unix:/run/tproxy/hold.sock", "`unix:PATH` of the socket, in a directory that both containers mount", unixPath(&path))
	s.Add("hold-time", "60s", "`time` after which connections are reset that no sidecar has fetched", flags.Time(&most))
	s.Log(&l)
	switch err := s.Parse(args, getenv, stdout); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "tproxy-proxy hold: %v\n", err)
		return 2
	}
	log := l.New(stderr)
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	if err := hold(ctx, log, path, most); err != nil {
		log.Error("cannot hold", "err", err)
		return 1
	}
	return 0
}

// hold serves sidecars until ctx ends.
func hold(ctx context.Context, log *slog.Logger, path string, most time.Duration) error {
	files, err := raiseNoFile()
	if err != nil {
		return err
	}
	ln, err := sock.ListenUnix(path, 0o600)
	if err != nil {
		return err
	}
	defer ln.Remove()
	visitors := make(chan *net.UnixConn)
	if err := accept(ctx, log, ln, visitors); err != nil {
		return err
	}
	log.Info("holding", "socket", path, "hold_time", most, "files", files)

	h := keeper{log: log, most: most}
	for {
		select {
		case conn := <-visitors:
			held, err := handover.Serve(ctx, conn, h.held)
			if err != nil {
				h.say(func() { log.Warn("a sidecar and this holder do not understand each other", "err", err) })
			}
			h.keep(held)
		case <-h.late:
			h.reset(func(n int) { log.Warn(unfetched, "descriptors", n, "hold_time", most) })
		case <-ctx.Done():
			h.reset(func(n int) { log.Warn("connections are reset: the holder ends", "descriptors", n) })
			return nil
		}
	}
}

const unfetched = "connections are reset that no sidecar has fetched"

// keeper is what a holder has. A sidecar that ends, or begins, does not wait for its log.
type keeper struct {
	log  *slog.Logger
	held *handover.Held // nil: nothing
	most time.Duration
	late <-chan time.Time // it has had them for most
}

func (h *keeper) say(log func()) { drain.LogBounded(log) }

// keep has what it is given instead of what it had.
func (h *keeper) keep(held *handover.Held) {
	if held == h.held {
		return
	}
	switch before := h.held; {
	case before != nil && held != nil:
		h.reset(func(n int) { h.log.Warn(unfetched, "descriptors", n) })
	case before != nil:
		before.Close(false)
		h.say(func() { h.log.Info("given to the next sidecar", "descriptors", before.Len()) })
	}
	if h.held, h.late = held, nil; held != nil {
		h.late = time.After(h.most)
		h.say(func() { h.log.Info("taken from a sidecar", "descriptors", held.Len()) })
	}
}

// reset ends the connections, if it has any, and logs how many descriptors they had.
func (h *keeper) reset(log func(descriptors int)) {
	if before := h.held; before != nil {
		before.Close(true)
		h.say(func() { log(before.Len()) })
	}
	h.held, h.late = nil, nil
}

// accept sends who connects, until ctx ends.
func accept(ctx context.Context, log *slog.Logger, ln sock.UnixListener, visitors chan<- *net.UnixConn) error {
	file := os.NewFile(uintptr(ln.FD), "holder")
	defer file.Close()
	l, err := net.FileListener(file)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { l.Close() })
	go func() {
		for ctx.Err() == nil {
			conn, err := l.Accept()
			if err != nil {
				if ctx.Err() == nil {
					log.Warn("cannot accept on the holder's socket", "err", err)
					time.Sleep(maxBackoff)
				}
				continue
			}
			select {
			case visitors <- conn.(*net.UnixConn):
			case <-ctx.Done():
				conn.Close()
			}
		}
	}()
	return nil
}
