package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/tproxy-cni/tproxy-cni/install/explain"
	"github.com/tproxy-cni/tproxy-cni/install/explain/gather"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// explainPod prints the report. Its error is the exit status: 1 for a fault, 3 where
// it is not known.
func explainPod(ctx context.Context, _ *slog.Logger, w world, c config) error {
	f, err := c.facts(ctx)
	e := c.explain
	if err == nil {
		err = gather.Fill(ctx, &f, gather.Options{Connect: e.connect && !e.watch, Wait: e.wait, Follow: !e.watch})
	}
	if err == nil {
		err = ctx.Err()
	}
	var exit int
	switch {
	case err != nil:
	case e.watch && f.Table:
		watcher := explain.Watch(w.stdout, w.getenv, f)
		var lost int
		if lost, err = gather.Watch(ctx, &f, uint16(e.port), watcher.Tell); err == nil {
			exit, err = watcher.End(lost)
		}
	case c.json:
		r := explain.New(f)
		exit, err = r.Status(), r.JSON(w.stdout)
	default:
		exit, err = explain.New(f).Status(), explain.Print(w.stdout, w.getenv, f)
	}
	if err != nil {
		hint := ""
		if os.Geteuid() != 0 {
			hint = "; it must run as root in the node's namespaces"
		}
		fmt.Fprintf(w.stderr, "tproxy-install explain: %s%s\n", printable.Line(err.Error()), hint)
		return status(3)
	}
	if exit != 0 {
		return status(exit)
	}
	return nil
}
