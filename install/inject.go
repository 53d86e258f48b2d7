package main

import (
	"context"
	"io"
	"log/slog"
	"os"

	"github.com/tproxy-cni/tproxy-cni/install/inject"
)

// injectFiles writes the files with the sidecar added to stdout, and nothing if
// there is an error.
func injectFiles(_ context.Context, _ *slog.Logger, w world, c config) error {
	return c.eachFile(w, inject.InjectFiles)
}

// uninjectFiles writes them without the sidecar.
func uninjectFiles(_ context.Context, _ *slog.Logger, w world, c config) error {
	return c.eachFile(w, inject.UninjectFiles)
}

func (c config) eachFile(w world, do func([]inject.File, io.Writer, inject.Options) error) error {
	files, err := inject.ReadFiles(c.files, c.recursive, w.stdin)
	if err != nil {
		return err
	}
	o := inject.Options{Mode: c.settings["mode"], Image: c.image, Notes: w.stderr}
	if c.sidecar != "" {
		if o.Sidecar, err = os.ReadFile(c.sidecar); err != nil {
			return err
		}
	}
	return do(files, w.stdout, o)
}
