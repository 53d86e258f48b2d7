package main

import (
	"context"
	"log/slog"

	"github.com/tproxy-cni/tproxy-cni/install/health"
	"github.com/tproxy-cni/tproxy-cni/install/node"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// uninstall takes the plugin's entry off the node and, if told so, its program, which
// pods from before may need to be deleted. Without --once it goes on running and
// keeps it off, so that it can run as a DaemonSet, which has no other way to run
// once on every node.
func uninstall(ctx context.Context, log *slog.Logger, w world, c config) error {
	n, err := newNode(w, c)
	if err != nil {
		return err
	}
	if c.keepBinary {
		log.Warn("--keep-binary is obsolete: without --remove-binary the plugin's binary stays")
	}
	s := health.New(contract.ModeNone, contract.PacketGuardRequired)
	work := func(ctx context.Context) (node.Outcome, string, error) {
		o, err := n.Uninstall(ctx, c.program())
		done := "uninstalled, nothing is left"
		if o.Left != "" {
			done = "uninstalled: no configuration names the plugin. " + o.Left
		}
		return o, done, err
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

// program is what becomes of the plugin's program.
func (c config) program() node.Program {
	switch {
	case !c.removeBinary:
		return node.Keep
	case c.force:
		return node.Remove
	}
	return node.RemoveUnused
}
