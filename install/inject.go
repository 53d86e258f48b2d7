package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/tproxy-cni/tproxy-cni/install/inject"
)

// injectFile writes the file with the sidecar added to stdout, and nothing if
// there is an error.
func injectFile(_ context.Context, _ *slog.Logger, w world, c config) error {
	in := w.stdin
	if c.file != "-" {
		f, err := os.Open(c.file)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	o := inject.Options{Mode: c.settings["mode"], Image: c.image}
	if c.sidecar != "" {
		var err error
		if o.Sidecar, err = os.ReadFile(c.sidecar); err != nil {
			return err
		}
	}
	return inject.Inject(in, w.stdout, o)
}
