package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/install/health"
	"github.com/tproxy-cni/tproxy-cni/install/preflight"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// preflightChild prints the verdicts on both modes, for checkKernel.
func preflightChild(_ context.Context, _ *slog.Logger, w world, _ config) error {
	return json.NewEncoder(w.stdout).Encode(preflight.Try())
}

// checkKernel runs this program's command preflight and reports the verdicts.
// What it finds keeps the installer from being ready, not from working.
func checkKernel(ctx context.Context, log *slog.Logger, s *health.Status, guard contract.PacketGuard) error {
	required := guard == contract.PacketGuardRequired
	path, _, err := self()
	if err != nil {
		return err
	}
	verdicts, err := preflight.Ask(ctx, path, "preflight")
	if ctx.Err() != nil {
		return nil
	}
	s.Preflight(verdicts, err)
	if err != nil {
		log.Warn("preflight: cannot check this kernel", "err", printable.Line(err.Error()))
	}
	for _, v := range verdicts {
		switch {
		case v.Error != "":
			log.Warn("preflight: cannot check this kernel for the mode", "mode", v.Mode, "err", v.Error)
		case len(v.Lacks(required)) > 0:
			log.Error("preflight: this kernel does not support the mode", "mode", v.Mode, "missing", strings.Join(v.Lacks(required), ", "))
		default:
			log.Info("preflight: this kernel supports the mode", "mode", v.Mode)
		}
		if v.Guard != "" && v.Guard != contract.GuardNFT {
			log.Warn("preflight: pods cannot have the whole packet guard, only one that is best-effort", "mode", v.Mode, "guard", v.Text)
		}
	}
	return nil
}
