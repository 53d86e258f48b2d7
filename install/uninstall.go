package main

import (
	"context"
	"log/slog"

	"github.com/tproxy-cni/tproxy-cni/install/health"
	"github.com/tproxy-cni/tproxy-cni/install/node"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// uninstall takes the plugin off the node. Without --once it goes on running and
// keeps it off, so that it can run as a DaemonSet, which has no other way to run
// once on every node.
func uninstall(ctx context.Context, log *slog.Logger, w world, c config) error {
	n, err := newNode(w, c)
	if err != nil {
		return err
	}
	s := health.New(contract.ModeNone)
	work := func(ctx context.Context) (node.Outcome, string, error) {
		o, err := n.Uninstall(ctx, c.keepBinary)
		return o, "uninstalled", err
	}
	if c.once {
		return attempt(ctx, log, s, work)
	}
	k := newKeeper(log, w, n, s, work)
	return supervise(
		ctx,
		func(ctx context.Context) error { return s.Serve(ctx, log, c.listen) },
		k.watch.Run,
		k.run,
	)
}
